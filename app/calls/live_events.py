"""Tells what happens in one call to whoever listens to it; while nobody does, it looks at nothing."""

from app.audio.activity import ActivityDetector
from app.audio.level import LevelMeter
from app.audio.playout import PlayoutCommand, SendAudio
from app.calls.events import (
    Audio,
    CallEvent,
    Connected,
    Direction,
    Disconnected,
    Dtmf,
    Error,
    Events,
    Speaker,
    SpeechStarted,
    SpeechStopped,
    Text,
    What,
)
from app.calls.record import CallRecord, EndReason, StreamRecord
from app.calls.session import End
from app.twilio.events import DtmfPressed, Event, Media, Started
from workers.messages import Frame

ERRORS = {
    EndReason.SOCKET_LOST,
    EndReason.SOCKET_BLOCKED,
    EndReason.PROTOCOL,
    EndReason.NO_START,
    EndReason.NO_SOCKET,
    EndReason.WRONG_CALL,
    EndReason.WORKER_LOST,
    EndReason.STAGE_FAILED,
    EndReason.INTERNAL,
}
"""Ends that nobody wanted."""


class LiveEvents:
    """Publishes what happens in one stream of a call; `now` in seconds, monotonic."""

    def __init__(self, events: Events, record: CallRecord, stream: StreamRecord) -> None:
        self._events = events
        self._record = record
        self._stream = stream
        self._gauges = {speaker: ActivityDetector() for speaker in Speaker}
        self._over = False
        self.meters = {speaker: LevelMeter() for speaker in Speaker}
        """How loud they are, for who asks."""

    def on_event(self, event: Event, now: float) -> None:
        """Twilio has said this, and the session has taken it."""
        if isinstance(event, Media):
            self.meters[Speaker.CALLER].note(event.payload, now)
        if not self._wanted:
            return
        match event:
            case Media(_, payload):
                self._publish(Audio(Direction.IN, payload), now)
                self._note_speech(Speaker.CALLER, self._gauges[Speaker.CALLER].hear(payload, now), now)
            case Started() if self._stream.started_s is not None:
                self._publish(Connected(), now)
            case DtmfPressed(digit):
                self._publish(Dtmf(digit), now)

    def on_frame(self, frame: Frame, now: float) -> None:
        """Moshi has made this frame."""
        if frame.text and self._wanted:
            self._publish(Text(frame.text), now)
            self._gauges[Speaker.MOSHI].think(now)

    def on_sent(self, command: PlayoutCommand, now: float) -> None:
        """This goes out to the caller. Moshi's packets never stop, so they are also when the caller is looked at."""
        if not isinstance(command, SendAudio):
            return
        self.meters[Speaker.MOSHI].note(command.payload, now)
        if not self._wanted:
            return
        self._publish(Audio(Direction.OUT, command.payload), now)
        self._note_speech(Speaker.MOSHI, self._gauges[Speaker.MOSHI].hear(command.payload, now), now)
        self._note_speech(Speaker.CALLER, self._gauges[Speaker.CALLER].look(now), now)

    def on_end(self, end: End, now: float) -> None:
        """The stream is over, and with it the call, as far as is known: it may come back."""
        self._over = True
        if end.reason is EndReason.REPLACED:  # the call goes on
            return
        if end.reason in ERRORS:
            self._publish(Error(end.reason, end.detail), now)
        self._publish(Disconnected(end.reason, end.detail), now)

    @property
    def _wanted(self) -> bool:
        return not self._over and self._events.wanted(self._record.call_sid)

    def _note_speech(self, speaker: Speaker, begun: bool | None, now: float) -> None:
        if begun is not None:
            self._publish(SpeechStarted(speaker) if begun else SpeechStopped(speaker), now)

    def _publish(self, what: What, now: float) -> None:
        self._events.publish(CallEvent(self._record.call_sid, now - self._record.reserved_s, what))
