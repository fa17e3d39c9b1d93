"""What happens in one call, handed over to the writer: nothing here waits, and nothing is looked at twice."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.audio.playout import ClearAudio, PlayoutCommand, SendAudio
from app.calls.record import CallRecord, Recording
from app.calls.session import CallSession
from app.twilio.events import Event, Media, Started
from workers.messages import Frame

INBOX_MOMENTS = 4_096
"""A minute of a call. If more waits for the writer, the recording is broken off."""
EARLY_PIECES = 12
"""A second's worth, in which a mark comes back or never will."""
TOO_SLOW = "the disk did not keep up"
OUR_FAULT = "an error of this service's own, see its log"
NO_FOLDER = "RECORDINGS_DIR is not set"


@dataclass(frozen=True, slots=True)
class Begun:
    """The stream began."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """The caller's packet, which begins at sample `begin` of his clock."""

    begin: int
    arrived_s: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Said:
    """Moshi's audio, heard from `heard_s` on."""

    payload: bytes
    heard_s: float


@dataclass(frozen=True, slots=True)
class Cleared:
    """What had not been heard by then will not be."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """The tokens of one step."""

    seq: int
    tokens: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over."""

    at_s: float


Moment = Begun | Heard | Said | Cleared | Stepped | Ended


class CallRecorder:
    """Looks on as one call goes. It writes to `inbox`, the writer takes from it: one thread each."""

    def __init__(self, recording: Recording, limit: int = INBOX_MOMENTS) -> None:
        self.recording = recording
        self.inbox: deque[Moment] = deque()
        self.over = False
        """Whether nothing more will come."""
        self.when_broken: Callable[[], object] = lambda: None
        """Called by the writer's thread when the recording is broken off after the call is over."""
        self._limit = limit
        self._begun = False
        self._early: list[Said] | None = []

    def on_event(self, event: Event, session: CallSession, now: float) -> None:
        """Twilio has said this, and the session has taken it."""
        match event:
            case Media(timestamp_ms, payload):
                if (begin := session.position(timestamp_ms)) is not None:
                    self._put(Heard(begin, now, payload))
            case Started() if session.stream.started_s == now:
                self._begun = True
                self._put(Begun(now))

    def on_sent(self, command: PlayoutCommand, session: CallSession) -> None:
        """This goes out to the caller. What is sent before the round trip is known is kept back for a while."""
        match command:
            case SendAudio(payload, _, _, heard_s):
                self._say(Said(payload, heard_s), session.round_trip_s)
            case ClearAudio(heard_s):
                self._say_early(session.round_trip_s or 0.0)
                self._put(Cleared(heard_s))

    def on_frame(self, frame: Frame) -> None:
        """Moshi has made this frame."""
        if frame.tokens:
            self._put(Stepped(frame.seq, frame.tokens))

    def on_end(self, now: float) -> None:
        """The call is over; if there was no stream there is no recording."""
        self._say_early(0.0)
        self._put(Ended(now))
        self.over = True
        if not self._begun:
            self.recording.name = ""

    def break_off(self, fault: str) -> None:
        """Record no more of this call, for a reason."""
        self.recording.fault = fault
        if not self._begun:
            self.recording.name = ""

    def _say(self, said: Said, round_trip_s: float | None) -> None:
        if self._early is None:
            self._put(said)
            return
        if round_trip_s is not None or len(self._early) == EARLY_PIECES:
            self._say_early(round_trip_s or 0.0)
            self._put(said)
        else:
            self._early.append(said)

    def _say_early(self, round_trip_s: float) -> None:
        for said in self._early or ():
            self._put(Said(said.payload, said.heard_s + round_trip_s))
        self._early = None

    def _put(self, moment: Moment) -> None:
        if self.over or self.recording.fault:
            return
        if len(self.inbox) >= self._limit:
            self.recording.fault = TOO_SLOW
        else:
            self.inbox.append(moment)


Record = Callable[[CallRecord, bool], CallRecorder | None]
"""Begin to record the last stream of a call, which was asked for or not."""


def record_nothing(record: CallRecord, asked: bool) -> CallRecorder | None:
    """Record no calls; one that was asked for says why."""
    if asked:
        record.streams[-1].recording = Recording(fault=NO_FOLDER)
    return None
