"""What happens in the calls, for the operators' API and for programs that embed the service.

    async with manager.events.subscribe(call_sid) as events:
        async for event in events: ...

No subscriber can slow a call: each subscription has a queue of its own, and nothing is waited for. A subscription that
is not read loses its oldest events, and gets `LOST` with their number before the next one.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from app.audio.level import ActivityDetector
from app.audio.playout import PlayoutCommand, SendAudio
from app.calls.end_reason import ERRORS, EndReason
from app.calls.leg import SendFrame
from app.calls.observer import CallObserver
from app.calls.sentences import SentenceSaid
from app.calls.session import CallSession, End
from app.calls.transcript import Word
from app.twilio.events import CallSid, DtmfPressed, Event, Media, Started
from app.twilio.wire import write_message, write_payload
from workers.messages import GREETING, Frame

QUEUED_EVENTS = 512
"""Events that wait for one subscriber: five seconds of a call with its audio, minutes without."""


class EventKind(StrEnum):
    """What has happened, with the names of the fields that tell more."""

    CONNECTED = "connected"
    """The stream of the call has started; audio flows both ways from now on."""
    AUDIO = "audio"
    """`payload`, mu-law at 8 kHz, as it came from the caller (`direction` "in") or was sent to them ("out")."""
    WORD = "word"
    """The `speaker`, "caller" or "moshi", has said `text`, from `start_s` to `stop_s`; digits in a row are masked."""
    TEXT = "text"
    """A piece of Moshi's `text` as it comes, digits and all: for the peer of a chat, and that alone."""
    SAID = "said"
    """Moshi has said a sentence as told (`id`, `text`); not `whole` if words are missing, or all of them."""
    GREETING_SAID = "greeting_said"
    """Moshi has said the words of its greeting (`whole`), perhaps while the phone still rings."""
    SPEECH_STARTED = "speech_started"
    """The `speaker`, "caller" or "moshi", has started to speak, by the level of the sound."""
    SPEECH_STOPPED = "speech_stopped"
    DTMF = "dtmf"
    """The caller has pressed a key, `digit`."""
    ERROR = "error"
    """An error ends the call for this `reason`, with `detail`; `DISCONNECTED` follows."""
    DISCONNECTED = "disconnected"
    """The stream is over (`reason`, `detail`), and with it the call unless it comes back: then `CONNECTED` follows.

    With a transcriber the caller's last words follow.
    """
    LOST = "lost"
    """`count` events were not read in time."""


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What happened in which call, `at_s` seconds after its slot was reserved: the clock of the call's record.

    `LOST` of a subscription to all calls has no call: `call_sid` "".
    """

    call_sid: CallSid
    at_s: float
    kind: EventKind
    fields: Mapping[str, str | int | float | bytes]

    def to_json(self) -> str:
        """Return the event as one JSON object; audio is base64."""
        fields = {name: write_payload(one) if isinstance(one, bytes) else one for name, one in self.fields.items()}
        return write_message({"call_sid": self.call_sid, "at_s": round(self.at_s, 4), "event": self.kind} | fields)


class Subscription:
    """The events of one call (until no more words come) or of all, to be read with `async for` by one reader.

    An async context manager: leave it to unsubscribe. Made by `Events.subscribe`.
    """

    def __init__(self, events: "Events", call_sid: CallSid | None, audio: bool, pieces: bool, room: int) -> None:
        self.call_sid, self.pieces = call_sid, pieces
        self._audio, self._events = audio, events
        self._queue: deque[CallEvent] = deque(maxlen=room)
        self._lost = 0
        self._finished = False
        self._changed = asyncio.Event()

    def put(self, event: CallEvent) -> None:
        """Queue an event if it is of a kind that is wanted; without room the oldest one is lost."""
        if (event.kind is EventKind.TEXT) != self.pieces or (event.kind is EventKind.AUDIO and not self._audio):
            return
        self._lost += len(self._queue) == self._queue.maxlen
        self._queue.append(event)
        self._changed.set()

    def finish(self) -> None:
        """Let iteration stop after what is queued."""
        self._finished = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CallEvent:
        while not self._queue:
            if self._finished:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return CallEvent(self.call_sid or CallSid(""), self._queue[0].at_s, EventKind.LOST, {"count": lost})
        return self._queue.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._events.discard(self)


class Events:
    """All subscriptions. Everything here runs on the event loop and never waits."""

    def __init__(self) -> None:
        self._by_call: dict[CallSid | None, set[Subscription]] = {}
        """None: those to all calls."""

    def subscribe(
        self, call_sid: CallSid | None = None, *, audio: bool = False, pieces: bool = False, room: int = QUEUED_EVENTS
    ) -> Subscription:
        """Subscribe to one call, which need not have rung yet, or to all; with `AUDIO` if wanted, or to `TEXT` only."""
        subscription = Subscription(self, call_sid, audio, pieces, room)
        self._by_call.setdefault(call_sid, set()).add(subscription)
        return subscription

    def discard(self, subscription: Subscription) -> None:
        """Pass nothing more on to it."""
        if subscriptions := self._by_call.get(subscription.call_sid):
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._by_call[subscription.call_sid]

    def wanted(self, call_sid: CallSid, pieces: bool = False) -> bool:
        """Tell whether anybody subscribes to this call's events, or to `TEXT`; if not, they need not be made."""
        return any(one.pieces is pieces for one in self._to(call_sid))

    def publish(self, event: CallEvent) -> None:
        for subscription in self._to(event.call_sid):
            subscription.put(event)

    def finish(self, call_sid: CallSid) -> None:
        """Finish the subscriptions to this call alone: it is over."""
        for subscription in [*self._by_call.get(call_sid, ())]:
            self._finish(subscription)

    def close(self) -> None:
        for subscription in [one for subscriptions in self._by_call.values() for one in subscriptions]:
            self._finish(subscription)

    def _to(self, call_sid: CallSid) -> list[Subscription]:
        return [*self._by_call.get(call_sid, ()), *self._by_call.get(None, ())]

    def _finish(self, subscription: Subscription) -> None:
        self.discard(subscription)
        subscription.finish()


class EventPublisher(CallObserver):
    """Publishes the events of one stream; computes nothing while nobody subscribes."""

    def __init__(self, events: Events, session: CallSession) -> None:
        self._events, self._record, self._stream = events, session.record, session.stream
        self._caller, self._moshi = ActivityDetector(), ActivityDetector()

    def on_event(self, event: Event, now: float) -> None:
        if not self._events.wanted(self._record.call_sid):
            return
        match event:
            case Media(_, payload) if payload:
                self._publish(EventKind.AUDIO, now, direction="in", payload=payload)
                self._publish_speech("caller", self._caller.add(payload, now), now)
            case Started() if self._stream.started_s is not None:
                self._publish(EventKind.CONNECTED, now)
            case DtmfPressed(digit):
                self._publish(EventKind.DTMF, now, digit=digit)

    def on_frame(self, frame: Frame, now: float) -> None:
        if frame.text:
            self._moshi.add_text(now)
            if self._events.wanted(self._record.call_sid, pieces=True):
                self._publish(EventKind.TEXT, now, text=frame.text)

    def on_word(self, word: Word, now: float) -> None:
        if self._events.wanted(self._record.call_sid):
            times_s = {"start_s": round(word.start_s, 3), "stop_s": round(word.stop_s, 3)}
            self._publish(EventKind.WORD, now, speaker=word.speaker, text=word.text, **times_s)

    def on_said(self, sentence: SentenceSaid, now: float) -> None:
        if sentence.number == GREETING:
            self._publish(EventKind.GREETING_SAID, now, whole=sentence.whole)
        else:
            self._publish(EventKind.SAID, now, id=sentence.number, text=sentence.text, whole=sentence.whole)

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        """Publish audio. Moshi's never pauses, so the end of the caller's speech is looked for here as well."""
        if isinstance(command, SendAudio) and self._events.wanted(self._record.call_sid):
            self._publish(EventKind.AUDIO, now, direction="out", payload=command.payload)
            self._publish_speech("moshi", self._moshi.add(command.payload, now), now)
            self._publish_speech("caller", self._caller.check(now), now)

    def on_end(self, end: End, now: float) -> None:
        """Publish the end of the call, as far as is known: it may come back."""
        if end.reason is EndReason.REPLACED:  # the call goes on
            return
        if end.reason in ERRORS:
            self._publish(EventKind.ERROR, now, reason=end.reason, detail=end.detail)
        self._publish(EventKind.DISCONNECTED, now, reason=end.reason, detail=end.detail)

    def on_words_end(self, now: float) -> None:
        if self._record.end not in (None, EndReason.REPLACED):  # the call goes on, or is on again
            self._events.finish(self._record.call_sid)

    def on_error(self) -> None:
        self._events.finish(self._record.call_sid)

    def _publish_speech(self, speaker: str, started: bool | None, now: float) -> None:
        if started is not None:
            kind = EventKind.SPEECH_STARTED if started else EventKind.SPEECH_STOPPED
            self._publish(kind, now, speaker=speaker)

    def _publish(self, kind: EventKind, now: float, **fields: str | float | bytes) -> None:
        self._events.publish(CallEvent(self._record.call_sid, now - self._record.reserved_s, kind, fields))
