"""What the recorder queues for the writer, on real sessions whose time is told."""

import numpy as np

from app.audio.playout import ClearAudio, SendAudio
from app.calls.end_reason import EndReason
from app.calls.limits import CallLimits
from app.calls.record import CallRecord, Recording
from app.calls.session import CallSession, End
from app.calls.suspension import Suspended
from app.telemetry.recording import recorder as recording
from app.telemetry.recording.recorder import MAX_EARLY, CallRecorder, record_nothing
from app.telemetry.recording.timeline import Channel, Piece
from app.twilio.events import CallSid, MarkPlayed, Media, Started, StreamSid
from workers.messages import Epoch, Frame, Slot

ANN = CallSid("CA" + "a" * 32)
NOW = 1_000.0
LOUD = bytes([0x10]) * 160
"""A packet of 20 ms."""


def new_session(call_sid: CallSid = ANN, record: CallRecord | None = None) -> CallSession:
    return CallSession(call_sid, "", CallLimits(3, 10.0, 100.0, 0.0), NOW, record)


class Talk:
    """A stream that began at NOW, on a line without delay, and its recorder."""

    def __init__(self, recorder: CallRecorder | None = None, limit: int = recording.MAX_QUEUED) -> None:
        self.recorder = recorder or CallRecorder(new_session(), Recording("a name"), limit)
        self.session = self.recorder.session
        self.record = self.session.record

    def start(self, round_trip_s: float | None = 0.0) -> "Talk":
        """Start the stream; a mark has come back already unless the round trip is None."""
        started = Started(StreamSid("MZ1"), self.session.record.call_sid, "AC1")
        self.session.on_socket_open(NOW)
        self.session.receive(started, NOW)
        self.recorder.on_event(started, NOW)
        if round_trip_s is not None:
            self.session.receive(MarkPlayed("0:1"), NOW + round_trip_s)
        return self

    def speak(self, seconds: float, first: int = 0) -> "Talk":
        """Let both sides speak all the time, from packet `first` on."""
        for number in range(first, first + round(seconds * 50)):
            self.recorder.on_event(Media(number * 20, LOUD), NOW + (number + 1) * 0.02)
            self.send(LOUD, NOW + number * 0.02)
            frame = np.full(17, number, "<i2").tobytes()
            self.recorder.on_frame(Frame(Slot(0), Epoch(1), number, None, tokens=frame), NOW)
        return self

    def send(self, payload: bytes, heard_s: float) -> None:
        self.recorder.on_sent(SendAudio(payload, "0:1", 0, heard_s), NOW)

    def clear(self, at_s: float) -> None:
        self.recorder.on_sent(ClearAudio(at_s), NOW)

    def end(self, after_s: float) -> None:
        self.recorder.on_end(End(EndReason.CALLER_HUNG_UP), NOW + after_s)

    @property
    def moshi(self) -> list[tuple[bytes, float]]:
        """What was queued of Moshi: audio, and seconds after the start."""
        pieces = [item for item in self.recorder.queue if isinstance(item, Piece)]
        return [(piece.payload, piece.begin / 8_000) for piece in pieces if piece.channel is Channel.MOSHI]


def test_a_call_that_is_opened_anew_begins_its_tokens_anew_and_one_that_goes_on_does_not() -> None:
    talk = Talk()
    talk.recorder.on_suspended(Suspended("step: killed by SIGKILL", anew=True), NOW)
    talk.recorder.on_suspended(Suspended("step: killed by SIGKILL", anew=False), NOW)
    assert [*talk.recorder.queue] == [recording.ANEW]


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
    talk = Talk(limit=10).start().speak(1.0)
    assert len(talk.recorder.queue) == 10
    assert (talk.recorder.recording.name, talk.recorder.recording.fault) == ("a name", recording.TOO_SLOW)


def test_a_call_that_asks_where_nothing_is_recorded_says_why() -> None:
    asked, other = new_session(), new_session()
    record_nothing(asked, True)
    record_nothing(other, False)
    assert (str(asked.record.recording), str(other.record.recording)) == (recording.NO_FOLDER, "no recording")


def test_a_call_that_fails_before_its_stream_has_no_recording() -> None:
    talk = Talk()
    talk.recorder.on_error()
    assert (talk.recorder.recording.name, talk.recorder.recording.fault) == ("", recording.OUR_FAULT)
