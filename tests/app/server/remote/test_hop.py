"""What a hop to another service adds, in virtual time: the client of the one and the leg of the other, no sockets."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.audio.opus import ChatCodec, OpusCodec, PcmCodec
from app.audio.playout import SendAudio
from app.calls.chat_inbound import IN_PHASE_S, ChatAudioCounter
from app.calls.chat_leg import ChatLeg
from app.calls.chat_protocol import Kind
from app.calls.limits import CallLimits
from app.server.remote.client import ChatClient, DecodedAudio
from workers.messages import FRAME_S, FRAME_SAMPLES, Epoch, Frame, Pcm, Slot

STEP_S = 0.002
SECONDS, SETTLED_S = 4.0, 1.5
LOUD_EVERY = 4
NOISE = np.random.default_rng(1).uniform(-0.5, 0.5, FRAME_SAMPLES).astype(np.float32)
SILENCE = np.zeros(FRAME_SAMPLES, np.float32)


class Hop:
    """Frames go out at `frames_s`, some of them loud; the server repeats them."""

    def __init__(self, codec: type[ChatCodec], frames_s: list[float]) -> None:
        self._took_s: dict[float, float] = {}
        self._server, self._counter = codec(), ChatAudioCounter()
        self._client = ChatClient(0.0, live=True, fills=True, codec=codec())
        self._client.receive(Kind.HANDSHAKE.message(), 0.0)
        self._client.start(0.0)
        self._leg = ChatLeg(CallLimits(0, 20.0, 1e9, STEP_S), opus=codec is OpusCodec)
        self._leg.start(0.0, None)
        self._answers: list[tuple[float, Frame]] = []
        self._loud_s = 0.0
        left = list(enumerate(frames_s))
        while left:
            timers = (self._client.pacer.get_timer(), self._leg.frame_due_s(), self._leg.audio_due_s())
            now = min(*timers, left[0][1], *(ready_s for ready_s, _ in self._answers))
            if now >= left[0][1]:
                number, _ = left.pop(0)
                self._speak(NOISE if number % LOUD_EVERY == 0 else SILENCE, now)
            self._serve(now)

    def _speak(self, pcm: Pcm, now: float) -> None:
        self._client.add_audio(pcm)
        self._loud_s = now if pcm is NOISE else self._loud_s

    def _serve(self, now: float) -> None:
        frames = self._leg.fill(now)
        if packets := self._client.pacer.pull(now):
            message = self._client.encode(np.concatenate(packets))
            frames += self._leg.push(self._counter.count(self._server.decode(message[1:])), now)
        self._answers += [(now + STEP_S, Frame(Slot(0), Epoch(1), one.seq, one.pcm)) for one in frames]
        for ready in [one for one in self._answers if one[0] <= now]:
            self._answers.remove(ready)
            self._hear(self._leg.play(ready[1], now), now)
        self._hear(self._leg.send_audio(now), now)

    def _hear(self, commands: object, now: float) -> None:
        assert isinstance(commands, list)
        for command in commands:
            assert isinstance(command, SendAudio)
            assert command.pcm is not None
            heard = self._client.receive(Kind.AUDIO.message(self._server.encode(command.pcm)), now)
            assert isinstance(heard, DecodedAudio)
            if np.abs(heard.samples).mean() > 0.1:
                self._took_s[self._loud_s] = now - self._loud_s

    def took_s(self, since_s: float = SETTLED_S) -> list[float]:
        """Return how long each loud frame took that was sent from then on, until it was back whole."""
        return [took_s for sent_s, took_s in self._took_s.items() if sent_s >= since_s]


@pytest.mark.parametrize("codec", [PcmCodec, OpusCodec])
@settings(max_examples=20, deadline=None)
@given(offset_s=st.floats(0, FRAME_S))
@example(offset_s=0.0)
@example(offset_s=FRAME_S / 2)
@example(offset_s=FRAME_S)
def test_a_hop_adds_no_latency_of_its_own_wherever_its_frames_begin(codec: type[ChatCodec], offset_s: float) -> None:
    hop = Hop(codec, list(np.arange(offset_s, SECONDS, FRAME_S)))
    assert len(hop.took_s()) > 5
    assert max(hop.took_s()) <= STEP_S + 1e-6


@settings(max_examples=20, deadline=None)
@given(offset_s=st.floats(0, FRAME_S), jitter_s=st.sampled_from([0.002, 0.01, 0.03]), seed=st.integers(0, 99))
def test_with_jitter_it_adds_no_more_than_that(offset_s: float, jitter_s: float, seed: int) -> None:
    late_s = np.random.default_rng(seed).uniform(0, jitter_s, round(SECONDS / FRAME_S))
    hop = Hop(PcmCodec, [offset_s + number * FRAME_S + late for number, late in enumerate(late_s)])
    assert max(hop.took_s()) <= STEP_S + jitter_s + 0.002


@settings(max_examples=20, deadline=None)
@given(offset_s=st.floats(0, FRAME_S), seed=st.integers(0, 99))
def test_nothing_stays_of_two_seconds_in_which_frames_are_late(offset_s: float, seed: int) -> None:
    number = np.arange(round(7.0 / FRAME_S))
    late_s = np.where(number * FRAME_S < 2.0, np.random.default_rng(seed).uniform(0, 0.15, len(number)), 0.0)
    hop = Hop(PcmCodec, list(np.maximum.accumulate(offset_s + number * FRAME_S + late_s)))
    assert max(hop.took_s(since_s=5.0)) <= STEP_S + IN_PHASE_S
