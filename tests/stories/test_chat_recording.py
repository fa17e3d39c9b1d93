"""Chats in virtual time, recorded at 24 kHz: both sides lie where they were spoken and heard.

The client's audio takes no time to our end, where the recording is made; Moshi repeats the client.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from app.audio import mulaw
from app.audio.playout import SendAudio
from app.calls.chat_inbound import ChatAudioCounter
from app.calls.chat_leg import ChatLeg
from app.calls.leg import SendFrame
from app.calls.limits import CallLimits
from app.calls.record import Recording
from app.calls.session import CallSession
from app.telemetry.recording.recorder import CallRecorder
from app.telemetry.recording.timeline import Channel, Piece
from app.twilio.events import CallSid, Started, StreamSid
from workers.messages import Epoch, Frame, Slot

CHAT = CallSid("chat-ann")
ZERO_S = 1_000.0
RATE = 24_000
TICK_S = 0.001
STEP_S = 0.02
WITHIN = RATE * 5 // 1_000
"""Samples in 5 ms."""
SETTLED_S = 2.0
WINDOW = RATE // 5
LOUD = 0.3

Sound = NDArray[np.float32]


class Chat:
    """A client that speaks noise in chunks; `arrives_s` says when what ends at a moment comes, None if it is not sent.

    `said` and `heard` are what they spoke and what was played to them, from the start of the stream on.
    """

    def __init__(self, arrives_s: Callable[[float], float | None], seconds: float, chunk_s: float = 0.02) -> None:
        self.session = CallSession(CHAT, "", LIMITS, ZERO_S, leg=ChatLeg(LIMITS))
        self.recorder = CallRecorder(self.session, Recording(), limit=1_000_000)
        self.said = np.random.default_rng(1).uniform(-LOUD, LOUD, round(seconds * RATE)).astype(np.float32)
        self.heard = np.zeros(len(self.said) + RATE, np.float32)
        self._played = 0
        self._answers: list[tuple[float, Frame]] = []
        self._run(list(self._arrivals(arrives_s, chunk_s)), seconds)

    def side(self, side: Channel) -> Sound:
        """Return one side as it is on the recording."""
        line = np.full(len(self.heard), mulaw.SILENCE, np.uint8)
        for piece in self.recorder.queue:
            if isinstance(piece, Piece) and piece.channel is side:
                line[piece.begin : piece.end] = np.frombuffer(piece.payload, np.uint8)
        return mulaw.decode(line.tobytes()).astype(np.float32) / np.float32(32_768)

    def _arrivals(self, arrives_s: Callable[[float], float | None], chunk_s: float) -> Iterator[tuple[float, Sound]]:
        ends = range(0, len(self.said) + 1, round(chunk_s * RATE))
        for begin, end in pairwise(ends):
            if (at_s := arrives_s(end / RATE)) is None:
                self.said[begin:end] = 0
            else:
                yield at_s, self.said[begin:end]

    def _run(self, arrivals: list[tuple[float, Sound]], seconds: float) -> None:
        counter, started = ChatAudioCounter(), Started(StreamSid(CHAT), CHAT, "")
        self.session.on_socket_open(ZERO_S)
        self._act(self.session.receive(started, ZERO_S), ZERO_S)
        self.recorder.on_event(started, ZERO_S)
        for tick in range(round(seconds / TICK_S)):
            now = ZERO_S + tick * TICK_S
            while arrivals and ZERO_S + arrivals[0][0] <= now:
                media = counter.count(arrivals.pop(0)[1])
                self._act(self.session.receive(media, now), now)
                self.recorder.on_event(media, now)
            while self._answers and self._answers[0][0] <= now:
                self._act(self.session.handle_frame(self._answers.pop(0)[1], now), now)
            if now >= self.session.get_timer():
                self._act(self.session.handle_timer(now), now)

    def _act(self, commands: object, now: float) -> None:
        assert isinstance(commands, list | tuple)
        for command in commands:
            match command:
                case SendFrame(seq, pcm):
                    self._answers.append((now + STEP_S, Frame(Slot(0), Epoch(1), seq, pcm)))
                case SendAudio(pcm=pcm) if pcm is not None:
                    self._play(pcm, round((now - ZERO_S) * RATE))
            self.recorder.on_sent(command, now)

    def _play(self, pcm: Sound, now: int) -> None:
        """Hear a page when it comes, or when the one before it has ended."""
        begin = max(now, self._played)
        self._played = begin + len(pcm)
        self.heard[begin : self._played] = pcm


LIMITS = CallLimits(0, 20.0, 1e9, STEP_S)


def off(recording: Sound, truth: Sound) -> Iterator[tuple[float, int | None]]:
    """Yield for each loud window of the truth where it is on the recording, in samples; None if it is not there."""
    for begin in range(round(SETTLED_S * RATE), len(truth) - 2 * WINDOW, WINDOW):
        window = truth[begin : begin + WINDOW]
        if np.all(window[:: RATE // 200] != 0):
            around = np.pad(recording, WINDOW)[begin : begin + 3 * WINDOW]
            match = np.fft.irfft(np.fft.rfft(around) * np.conj(np.fft.rfft(window, len(around))))
            at = int(np.argmax(match))
            yield begin / RATE, at - WINDOW if match[at] > 0.8 * float(window @ window) else None


STALL_S, PAUSE_S = (5.0, 7.0), (5.0, 12.0)
LINES: dict[str, Callable[[float], float | None]] = {
    "steady": lambda said_s: said_s,
    "stalled": lambda said_s: STALL_S[1] if STALL_S[0] < said_s < STALL_S[1] else said_s,
    "paused": lambda said_s: None if PAUSE_S[0] < said_s < PAUSE_S[1] else said_s,
}


@pytest.mark.parametrize("chunk_s", [0.02, 0.08])
@pytest.mark.parametrize("line", LINES)
def test_the_client_is_where_they_spoke(line: str, chunk_s: float) -> None:
    """Of a pause nothing is known before the burst of a stall would have come."""
    chat = Chat(LINES[line], 20.0, chunk_s)
    places = dict(off(chat.side(Channel.CALLER), chat.said))
    assert len(places) > 50
    resumed = (PAUSE_S[1], PAUSE_S[1] + 0.8) if line == "paused" else (0.0, 0.0)
    wrong = {at_s: place for at_s, place in places.items() if place is None or abs(place) > WITHIN}
    assert not [at_s for at_s in wrong if not resumed[0] <= at_s < resumed[1]]


@pytest.mark.parametrize("line", LINES)
def test_moshi_is_where_it_was_heard(line: str) -> None:
    chat = Chat(LINES[line], 20.0)
    places = dict(off(chat.side(Channel.MOSHI), chat.heard))
    assert len(places) > 30
    assert not {at_s: place for at_s, place in places.items() if place is None or abs(place) > WITHIN}


def test_speech_up_to_12_khz_is_kept() -> None:
    """On a phone nothing above 4 kHz is."""
    spectrum = np.abs(np.fft.rfft(Chat(LINES["steady"], 6.0).side(Channel.CALLER)[2 * RATE : 5 * RATE])) ** 2
    assert np.sum(spectrum[len(spectrum) // 3 :]) == pytest.approx(2 / 3 * np.sum(spectrum), rel=0.1)
