"""A chat's audio in virtual time: how it is paced, whatever the client and the workers do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.playout import PACKET_S, TARGET_S, SendAudio
from app.audio.playout_buffer import FIRST_JITTER_S
from app.calls.chat_inbound import GRACE_S, ChatAudioCounter
from app.calls.chat_leg import GREETING_AHEAD_S, OPUS_CUSHION_S, ChatLeg
from app.calls.leg import SendFrame
from app.calls.limits import CallLimits
from workers.messages import FRAME_S, Epoch, Frame, Pcm, Slot

RATE = 24_000
STEP_S = 0.02
TICK_S = 0.001
FIRST_S = TARGET_S[0] + FIRST_JITTER_S
"""What is unplayed at first."""


@dataclass
class Client:
    """A client that speaks the time: each sample is the second in which it was spoken, by our clock. Moshi repeats it.

    `arrives_s` says when what was spoken up to a moment arrives; `step_s` how long the workers take for what was
    sent to them then.
    """

    arrives_s: Callable[[float], float] = lambda spoken_s: spoken_s
    step_s: Callable[[float], float] = lambda now: STEP_S
    chunk_s: float = 0.02
    speed: float = 1.0
    """Of the client's clock."""
    greeting: int = 0
    phase_s: float | None = None
    opus: bool = False
    frames: list[tuple[float, SendFrame]] = field(default_factory=list)
    pages: list[tuple[float, SendAudio]] = field(default_factory=list)
    latency: list[tuple[float, float]] = field(default_factory=list)

    def run(self, seconds: float) -> "Client":
        leg = self.leg = ChatLeg(CallLimits(self.greeting, 20.0, 1e9, processing_s=STEP_S), self.opus)
        leg.start(0.0, self.phase_s)
        counter, answers = ChatAudioCounter(), [(0.0, frame(seq)) for seq in range(self.greeting)]
        chunks = [(at + 1) * self.chunk_s for at in range(round(seconds / self.chunk_s))]
        arrivals = sorted((self.arrives_s(spoken_s / self.speed), spoken_s / self.speed) for spoken_s in chunks)
        self.until_s = 0.0
        for tick in range(round(seconds / TICK_S)):
            now = tick * TICK_S
            while arrivals and arrivals[0][0] <= now:
                _, spoken_s = arrivals.pop(0)
                samples = np.full(round(self.chunk_s * RATE), spoken_s, np.float32)
                self._sent(leg.push(counter.count(samples), now), answers, now)
            if now >= leg.frame_due_s():
                self._sent(leg.fill(now), answers, now)
            for ready in [one for one in answers if one[0] <= now]:
                answers.remove(ready)
                self._heard(leg.play(ready[1], now), now)
            if now >= leg.audio_due_s():
                self._heard(leg.send_audio(now), now)
        return self

    def _sent(self, frames: list[SendFrame], answers: list[tuple[float, Frame]], now: float) -> None:
        for one in frames:
            self.frames.append((now, one))
            answers.append((now + self.step_s(now), frame(one.seq, one.pcm)))

    def _heard(self, commands: Sequence[object], now: float) -> None:
        for one in commands:
            assert isinstance(one, SendAudio)
            self.pages.append((now, one))
            if (latency_s := self.leg.mouth_to_ear_s(one)) is not None:
                self.latency.append((now, latency_s))

    def oldness_s(self, since_s: float, until_s: float) -> list[float]:
        """How long ago what the workers got was spoken, for the last sample of each frame that has one."""
        return [now - float(one.pcm[-1]) for now, one in self.frames if since_s <= now < until_s and one.pcm[-1] > 0]

    def mouth_to_ear_s(self, since_s: float, until_s: float) -> list[float]:
        """How long ago what is heard was spoken, for the first sample of each page that has one."""
        heard = [(page.heard_s, float(page.pcm[0])) for _, page in self.pages if page.pcm is not None]
        return [heard_s - spoken_s for heard_s, spoken_s in heard if since_s <= heard_s < until_s and spoken_s > 0]

    def unplayed_s(self, since_s: float) -> list[float]:
        return [page.heard_s - now for now, page in self.pages if now >= since_s]


def frame(seq: int, pcm: Pcm | None = None) -> Frame:
    return Frame(Slot(0), Epoch(1), seq, np.zeros(1_920, np.float32) if pcm is None else pcm)


def test_frames_are_numbered_and_come_every_80_ms_and_what_is_heard_as_well() -> None:
    client = Client().run(10.0)
    assert [one.seq for _, one in client.frames] == list(range(len(client.frames)))
    assert np.diff([now for now, _ in client.frames]) == pytest.approx(FRAME_S, abs=0.025)
    assert np.diff([page.heard_s for _, page in client.pages[2:]]) == pytest.approx(FRAME_S, abs=0.003)
    assert {len(page.pcm) for _, page in client.pages if page.pcm is not None} == {1_920}
    assert max(latency_s for _, latency_s in client.latency) <= FRAME_S + STEP_S + FIRST_S + 2 * TICK_S


@pytest.mark.parametrize(("opus", "cushion_s"), [(False, 0.0), (True, OPUS_CUSHION_S)])
def test_a_cushion_is_kept_unplayed_for_opus_and_covers_a_frame_that_comes_late(opus: bool, cushion_s: float) -> None:
    client = Client(step_s=lambda now: STEP_S + (0.02 if 9.9 <= now < 10.0 else 0.0), opus=opus).run(12.0)
    latency_s = client.mouth_to_ear_s(2.0, 9.0)
    assert np.median(latency_s) <= FRAME_S + STEP_S + FIRST_S + cushion_s + 0.02 + 2 * TICK_S
    assert client.leg.counts["underruns"] == (not opus)


@pytest.mark.parametrize("chunk_s", [0.02, 0.04])
@pytest.mark.parametrize("begins_s", [0.0, 0.331, 0.357])
def test_a_frame_waits_for_nothing_once_its_last_packet_has_come(chunk_s: float, begins_s: float) -> None:
    client = Client(arrives_s=lambda spoken_s: spoken_s + begins_s, chunk_s=chunk_s, phase_s=7.03).run(6.0)
    assert max(client.oldness_s(2.0, 6.0)) <= begins_s + 2 * TICK_S
    heard_s = max(client.mouth_to_ear_s(3.0, 6.0)) - begins_s + chunk_s
    assert heard_s <= FRAME_S + chunk_s + STEP_S + 0.015


@settings(max_examples=30, deadline=None)
@given(chunk_s=st.sampled_from([0.02, 0.04, 0.08]), begins_s=st.floats(0.1, 0.5))
def test_nothing_is_lost_of_what_a_client_says_first(chunk_s: float, begins_s: float) -> None:
    client = Client(arrives_s=lambda spoken_s: spoken_s + begins_s, chunk_s=chunk_s).run(2.0)
    read = np.concatenate([one.pcm for _, one in client.frames])
    said = np.arange(1, 6) * chunk_s
    assert [np.sum(np.isclose(read, spoken_s)) for spoken_s in said] == [round(chunk_s * RATE)] * len(said)


def test_the_clock_follows_packets_whose_phase_moves() -> None:
    client = Client(arrives_s=lambda spoken_s: spoken_s + (0.0 if spoken_s < 4.0 else 0.015)).run(12.0)
    assert max(client.oldness_s(2.0, 4.0)) <= 2 * TICK_S
    assert max(client.oldness_s(8.0, 12.0)) <= 0.015 + 2 * TICK_S
    client = Client(arrives_s=lambda spoken_s: spoken_s + (0.015 if spoken_s < 4.0 else 0.0)).run(12.0)
    assert max(client.mouth_to_ear_s(8.0, 12.0)) <= min(client.mouth_to_ear_s(2.0, 4.0)) + 2 * TICK_S, "no more"


def test_what_the_workers_always_vary_by_is_kept_unplayed_and_nothing_is_shortened() -> None:
    rng = np.random.default_rng(4)
    client = Client(step_s=lambda now: STEP_S + rng.choice([0.0, 0.03], p=[0.9, 0.1])).run(60.0)
    assert client.leg.counts["packets_shortened"] == 0
    assert min(client.unplayed_s(10.0)) >= 0.0
    assert np.diff([page.heard_s for now, page in client.pages if now > 10.0]) == pytest.approx(FRAME_S, abs=1e-6)


@pytest.mark.parametrize("chunk_s", [0.01, 0.02, 0.04, 0.08, 0.12])
def test_packets_of_any_length_are_heard_without_a_gap(chunk_s: float) -> None:
    client = Client(chunk_s=chunk_s).run(20.0)
    early = sum(now < 1.0 + GRACE_S for now, _ in client.frames)
    assert not [one for _, one in client.frames[early:] if (one.pcm == 0).any()]
    assert max(client.oldness_s(5.0, 20.0)) <= chunk_s + 0.08


def test_a_client_that_sends_nothing_never_starves_the_workers() -> None:
    client = Client(arrives_s=lambda spoken_s: 1e9).run(10.0)
    assert len(client.frames) == pytest.approx(10.0 / FRAME_S, abs=1)
    assert len(client.pages) == pytest.approx(10.0 / FRAME_S, abs=2)


@pytest.mark.parametrize("phase_s", [2 * TICK_S, 0.04, 0.079])
def test_kyutais_client_which_plays_whole_blocks_of_80_ms_never_lacks_one(phase_s: float) -> None:
    rng = np.random.default_rng(5)
    client = Client(greeting=25, opus=True, step_s=lambda now: STEP_S + rng.uniform(0, 0.03)).run(30.0)
    samples = [len(page.pcm) for _, page in client.pages if page.pcm is not None]
    whole_s = np.repeat([now for now, _ in client.pages], samples)[1_919::1_920]
    assert (whole_s <= whole_s[0] + phase_s + FRAME_S * np.arange(len(whole_s))).all()


@pytest.mark.parametrize("stall_s", [0.2, 0.5, 1.0, 2.0, 5.0])
def test_after_a_stall_and_its_burst_the_latency_is_back_within_two_seconds(stall_s: float) -> None:
    over_s = 4.0 + stall_s
    client = Client(arrives_s=lambda spoken_s: over_s if 4.0 < spoken_s < over_s else spoken_s).run(over_s + 8.0)
    before, after = client.oldness_s(2.0, 4.0), client.oldness_s(over_s + 2.0, over_s + 8.0)
    assert max(after) <= max(before) + 0.02
    heard_before, heard = client.mouth_to_ear_s(2.0, 4.0), client.mouth_to_ear_s(over_s + 2.0, over_s + 8.0)
    assert max(heard) <= max(heard_before) + 0.02
    assert np.diff([now for now, _ in client.frames]) == pytest.approx(FRAME_S, abs=GRACE_S + 0.002), "never starved"


def test_audio_before_the_first_frame_is_no_backlog() -> None:
    client = Client(arrives_s=lambda spoken_s: 0.0 if spoken_s < 8.0 else spoken_s).run(12.0)
    assert all(one.pcm[-1] <= now + 8.0 for now, one in client.frames)
    assert max(client.oldness_s(10.0, 12.0)) <= 0.06


@pytest.mark.parametrize("speed", [0.999, 1.001])
def test_a_clock_that_is_slow_or_fast_builds_up_no_latency(speed: float) -> None:
    client = Client(speed=speed).run(120.0)
    assert max(client.oldness_s(110.0, 120.0)) <= 0.08
    filled, late = client.leg.counts["ms_filled"], client.leg.counts["ms_late"]
    assert (late if speed > 1 else filled) <= 250, "what the clock makes"


def test_jitter_within_the_grace_fills_nothing() -> None:
    rng = np.random.default_rng(3)
    client = Client(arrives_s=lambda spoken_s: spoken_s + rng.uniform(0, 0.03)).run(30.0)
    assert client.leg.counts["ms_filled"] <= 160, "at the start"
    assert client.leg.counts["ms_late"] <= 160


def test_a_greeting_is_paced_and_answers_take_over_as_it_ends() -> None:
    client = Client(greeting=25).run(8.0)
    greeting = client.pages[:50]
    assert np.diff([page.heard_s for _, page in greeting]) == pytest.approx(FRAME_S / 2, abs=0.004)
    assert max(page.heard_s - now for now, page in greeting) <= GREETING_AHEAD_S + 1e-6
    assert [page.seq for _, page in greeting] == [seq for seq in range(25) for _ in range(2)]
    assert client.frames[0][1].seq == 25
    assert len(client.latency) == len({one.seq for _, one in client.pages}) - 25, "a greeting answers nothing"
    assert client.latency[0][1] <= FRAME_S + STEP_S + 0.12


def test_what_the_workers_stall_is_no_latency_two_seconds_later() -> None:
    client = Client(step_s=lambda now: max(STEP_S, 4.3 - now) if now >= 4.0 else STEP_S).run(10.0)
    before = [latency_s for now, latency_s in client.latency if now < 4.0]
    after = [latency_s for now, latency_s in client.latency if now >= 6.4]
    assert max(after) <= max(before) + PACKET_S
    assert client.leg.counts["packets_shortened"] + client.leg.counts["packets_dropped"] > 0


def test_frames_become_complete_in_phase_with_those_of_other_calls() -> None:
    client = Client(phase_s=7.03).run(2.0)
    due_s = client.leg.complete_s(2.0)
    assert abs((due_s - 7.03 + FRAME_S / 2) % FRAME_S - FRAME_S / 2) < 0.02, "less than a packet away"


def started() -> ChatLeg:
    leg = ChatLeg(CallLimits(0, 20.0, 1e9, processing_s=STEP_S))
    leg.start(0.0, None)
    return leg


@pytest.mark.parametrize("length", [1, 1_920, 48_000])
def test_no_packet_is_so_long_that_the_next_frame_is_later(length: int) -> None:
    leg, counter = started(), ChatAudioCounter()
    leg.push(counter.count(np.ones(length, np.float32)), 0.07)
    assert leg.frame_due_s() <= 0.07 + FRAME_S + GRACE_S


def test_after_a_stall_of_ours_the_frames_in_between_are_left_out() -> None:
    leg = started()
    assert [one.seq for one in leg.fill(3.0)] == [0]
    assert leg.fill(3.0) == []
    assert 3.0 < leg.frame_due_s() <= 3.0 + FRAME_S
    assert leg.counts["frames_skipped"] == 36


def test_a_chat_is_over_when_its_last_page_has_been_played() -> None:
    leg = started()
    leg.play(frame(0), 1.0)
    assert leg.played_s() == np.inf, "a frame waits"
    leg.send_audio(leg.audio_due_s())
    assert leg.finish(1.03) == []
    assert leg.played_s() == pytest.approx(1.0 + FIRST_S + FRAME_S)
