"""Publishes what happens in one call to whoever subscribes; computes nothing while nobody does."""

from app.audio.activity import ActivityDetector
from app.audio.playout import PlayoutCommand, SendAudio
from app.calls.events import (
    AudioSent,
    CallError,
    CallEvent,
    CallStarted,
    Direction,
    Disconnected,
    EventBody,
    Events,
    KeyPressed,
    Speaker,
    SpeechStarted,
    SpeechStopped,
    TextSpoken,
)
from app.calls.observer import CallObserver
from app.calls.record import ERRORS, CallRecord, EndReason, StreamRecord
from app.calls.session import End, SendFrame
from app.twilio.events import DtmfPressed, Event, Media, Started
from workers.messages import Frame


class LiveEvents(CallObserver):
    """Publishes the events of one stream."""

    def __init__(self, events: Events, record: CallRecord, stream: StreamRecord) -> None:
        self._events, self._record, self._stream = events, record, stream
        self._activity = {speaker: ActivityDetector() for speaker in Speaker}

    def on_event(self, event: Event, now: float) -> None:
        if not self._events.wanted(self._record.call_sid):
            return
        match event:
            case Media(_, payload):
                self._publish(AudioSent(Direction.IN, payload), now)
                self._publish_speech(Speaker.CALLER, self._activity[Speaker.CALLER].add(payload, now), now)
            case Started() if self._stream.started_s is not None:
                self._publish(CallStarted(), now)
            case DtmfPressed(digit):
                self._publish(KeyPressed(digit), now)

    def on_frame(self, frame: Frame, now: float) -> None:
        if frame.text and self._events.wanted(self._record.call_sid):
            self._publish(TextSpoken(frame.text), now)
            self._activity[Speaker.MOSHI].add_text(now)

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        """Publish audio. Moshi's never pauses, so the end of the caller's speech is looked for here as well."""
        if not isinstance(command, SendAudio) or not self._events.wanted(self._record.call_sid):
            return
        self._publish(AudioSent(Direction.OUT, command.payload), now)
        self._publish_speech(Speaker.MOSHI, self._activity[Speaker.MOSHI].add(command.payload, now), now)
        self._publish_speech(Speaker.CALLER, self._activity[Speaker.CALLER].check(now), now)

    def on_end(self, end: End, now: float) -> None:
        """Publish the end of the call, as far as is known: it may come back."""
        if end.reason is EndReason.REPLACED:  # the call goes on
            return
        if end.reason in ERRORS:
            self._publish(CallError(end.reason, end.detail), now)
        self._publish(Disconnected(end.reason, end.detail), now)

    def _publish_speech(self, speaker: Speaker, started: bool | None, now: float) -> None:
        if started is not None:
            self._publish(SpeechStarted(speaker) if started else SpeechStopped(speaker), now)

    def _publish(self, body: EventBody, now: float) -> None:
        self._events.publish(CallEvent(self._record.call_sid, now - self._record.reserved_s, body))
