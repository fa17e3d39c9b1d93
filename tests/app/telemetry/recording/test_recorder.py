"""What the recorder queues for the writer, on real sessions whose time is told."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from app.audio.playout import ClearAudio, SendAudio
from app.calls.record import CallRecord, Recording
from app.calls.session import CallLimits, CallSession
from app.telemetry.recording.recorder import MAX_EARLY, NO_FOLDER, TOO_SLOW, CallRecorder, StepTokens, record_nothing
from app.telemetry.recording.timeline import Piece, Side
from app.twilio.events import CallSid, MarkPlayed, Media, Started, StreamSid
from workers.messages import Epoch, Frame, Slot

ANN = CallSid("CA" + "a" * 32)
NOW = 1_000.0
STARTED = Started(StreamSid("MZ1"), ANN, "AC1")
LOUD = bytes([0x10]) * 160
"""A packet of 20 ms."""


@dataclass
class Talk:
    """A stream that began at NOW, on a line without delay, and its recorder."""

    recorder: CallRecorder = field(default_factory=lambda: CallRecorder(Recording()))
    session: CallSession = field(default_factory=lambda: CallSession(ANN, "", CallLimits(0, 10.0, 100.0, 0.0), NOW))

    def start(self, round_trip_s: float | None = 0.0) -> "Talk":
        """Start the stream; a mark has come back already unless the round trip is None."""
        self.session.on_socket_open(NOW)
        self.session.receive(STARTED, NOW)
        self.recorder.on_event(STARTED, self.session, NOW)
        if round_trip_s is not None:
            self.session.receive(MarkPlayed("0:1"), NOW + round_trip_s)
        return self

    def speak(self, seconds: float, first: int = 0) -> "Talk":
        """Let both sides speak all the time, from packet `first` on."""
        for number in range(first, first + round(seconds * 50)):
            self.recorder.on_event(Media(number * 20, LOUD), self.session, NOW + (number + 1) * 0.02)
            self.send(LOUD, NOW + number * 0.02)
            frame = np.full(17, number, "<i2").tobytes()
            self.recorder.on_frame(Frame(Slot(0), Epoch(1), number, None, tokens=frame))
        return self

    def send(self, payload: bytes, heard_s: float) -> None:
        self.recorder.on_sent(SendAudio(payload, "0:1", 0, heard_s), self.session)

    def clear(self, at_s: float) -> None:
        self.recorder.on_sent(ClearAudio(at_s), self.session)

    @property
    def moshi(self) -> list[tuple[bytes, float]]:
        """What was queued of Moshi: audio, and seconds after the start."""
        pieces = [item for item in self.recorder.queue if isinstance(item, Piece)]
        return [(piece.payload, piece.begin / 8_000) for piece in pieces if piece.side is Side.MOSHI]


def test_both_sides_and_the_tokens_are_queued_and_an_end_has_a_length() -> None:
    talk = Talk().start().speak(0.04)
    talk.recorder.on_end(NOW + 1.5)
    pieces = [item for item in talk.recorder.queue if isinstance(item, Piece)]
    assert [(piece.side, piece.begin) for piece in pieces] == [(0, 0), (1, 0), (0, 160), (1, 160)]
    assert [item.seq for item in talk.recorder.queue if isinstance(item, StepTokens)] == [0, 1]
    assert (talk.recorder.is_over, talk.recorder.length) == (True, 12_000)


def test_what_is_sent_before_the_round_trip_is_known_is_placed_once_it_is() -> None:
    talk = Talk().start(round_trip_s=None)
    for number in range(2):
        talk.send(bytes([number]), NOW + number)
    assert talk.moshi == []
    talk.session.receive(MarkPlayed("0:1"), NOW + 0.1)
    talk.send(b"\2", NOW + 2)
    assert talk.moshi == [(b"\0", 0.1), (b"\1", 1.1), (b"\2", 2.0)]


def test_where_no_mark_comes_back_nothing_is_held_back_for_long() -> None:
    talk = Talk().start(round_trip_s=None)
    for number in range(MAX_EARLY + 1):
        talk.send(b"\0", NOW + number)
    assert talk.moshi == [(b"\0", number) for number in range(MAX_EARLY + 1)]


def test_a_disk_that_does_not_keep_up_costs_the_recording_and_no_memory() -> None:
    talk = Talk(CallRecorder(Recording("a name"), limit=10)).start().speak(1.0)
    assert len(talk.recorder.queue) == 10
    assert (talk.recorder.recording.name, talk.recorder.recording.fault) == ("a name", TOO_SLOW)


def test_a_call_that_asks_where_nothing_is_recorded_says_why() -> None:
    asked, other = CallRecord(ANN, NOW), CallRecord(ANN, NOW)
    for record in (asked, other):
        record.open_stream(NOW)
    assert record_nothing(asked, True) is record_nothing(other, False) is None
    assert (str(asked.recording), str(other.recording)) == (NO_FOLDER, "no recording")


def test_to_record_costs_the_event_loop_next_to_nothing(record_property: Callable[[str, object], None]) -> None:
    talk = Talk(CallRecorder(Recording(), limit=1_000_000)).start()
    began_s = time.perf_counter()
    talk.speak(100.0)
    record_property("microseconds for 20 ms of both sides", (time.perf_counter() - began_s) * 1e6 / 5_000)
    assert len(talk.recorder.queue) == 15_000


@pytest.mark.parametrize("ends", [True, False])
def test_a_call_that_had_no_stream_has_no_recording(ends: bool) -> None:
    recorder = CallRecorder(Recording("a name"))
    if ends:
        recorder.on_end(NOW)
    else:
        recorder.break_off("a fault")
    assert recorder.recording.name == ""
