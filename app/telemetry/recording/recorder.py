"""Hands over what happens in one call to the thread that writes recordings; nothing here waits."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.audio.playout import ClearAudio, PlayoutCommand, SendAudio
from app.calls.observer import CallObserver
from app.calls.record import Recording
from app.calls.session import CallSession, End, SendFrame
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


class CallRecorder(CallObserver):
    """Watches one stream of a call. It writes to `inbox`, the writer takes from it: one thread each."""

    def __init__(self, session: CallSession, recording: Recording, limit: int = INBOX_MOMENTS) -> None:
        self.recording = recording
        self.inbox: deque[Moment] = deque()
        self.over = False
        """Whether nothing more will come."""
        self.when_broken: Callable[[], object] = lambda: None
        """Called by the writer's thread when the recording is broken off after the call is over."""
        self._session = session
        self._limit = limit
        self._begun = False
        self._early: list[Said] | None = []

    def on_event(self, event: Event, now: float) -> None:
        match event:
            case Media(timestamp_ms, payload):
                if (begin := self._session.position(timestamp_ms)) is not None:
                    self._put(Heard(begin, now, payload))
            case Started() if self._session.stream.started_s == now:
                self._begun = True
                self._put(Begun(now))

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        """Pass audio on; what is sent before the round trip is known is kept back for a while."""
        match command:
            case SendAudio(payload, _, _, heard_s):
                self._say(Said(payload, heard_s), self._session.round_trip_s)
            case ClearAudio(heard_s):
                self._say_early(self._session.round_trip_s or 0.0)
                self._put(Cleared(heard_s))

    def on_frame(self, frame: Frame, now: float) -> None:
        if frame.tokens:
            self._put(Stepped(frame.seq, frame.tokens))

    def on_end(self, end: End, now: float) -> None:
        """End the recording; if there was no stream there is none."""
        self._say_early(0.0)
        self._put(Ended(now))
        self.over = True
        if not self._begun:
            self.recording.name = ""

    def on_error(self) -> None:
        """Record no more of this call."""
        self.recording.fault = OUR_FAULT
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


def record_nothing(session: CallSession, asked: bool) -> None:
    """Record no calls; one that was asked for says why."""
    if asked:
        session.stream.recording = Recording(fault=NO_FOLDER)
