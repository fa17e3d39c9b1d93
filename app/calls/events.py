"""What happens in the calls, for programs that embed the service.

    async with manager.events.subscribe(call_sid) as events:
        async for event in events:
            match event.body: ...

No subscriber can slow a call: each subscription has a queue of its own, and nothing is waited for. A subscription that
is not read loses its oldest events, and gets `EventsLost` with their number before the next one.
"""

import asyncio
import dataclasses
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from app.calls.record import EndReason
from app.twilio.events import CallSid
from app.twilio.wire import write_message, write_payload

QUEUED_EVENTS = 512
"""Events that wait for one subscriber: five seconds of a call with its audio, minutes without."""


class Direction(StrEnum):
    IN = "in"
    OUT = "out"


class Speaker(StrEnum):
    CALLER = "caller"
    MOSHI = "moshi"


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The stream of the call has started; audio flows both ways from now on."""


@dataclass(frozen=True, slots=True)
class AudioSent:
    """Mu-law at 8 kHz: a packet as it came from the caller, or as it was sent to them."""

    direction: Direction
    payload: bytes


@dataclass(frozen=True, slots=True)
class TextSpoken:
    """A piece of Moshi's text; that of a greeting comes while the phone still rings."""

    text: str


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody has started to speak, by the level of the sound (`app.audio.activity`)."""

    speaker: Speaker


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """Somebody has stopped speaking."""

    speaker: Speaker


@dataclass(frozen=True, slots=True)
class KeyPressed:
    """The caller has pressed a key."""

    digit: str


@dataclass(frozen=True, slots=True)
class CallError:
    """An error ends the call; `Disconnected` follows."""

    reason: EndReason
    detail: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream is over, and with it the call unless it comes back: then `CallStarted` follows."""

    reason: EndReason
    detail: str


@dataclass(frozen=True, slots=True)
class EventsLost:
    """So many events were not read in time."""

    count: int


EVENT_NAMES = {
    CallStarted: "connected",
    AudioSent: "audio",
    TextSpoken: "text",
    SpeechStarted: "speech_started",
    SpeechStopped: "speech_stopped",
    KeyPressed: "dtmf",
    CallError: "error",
    Disconnected: "disconnected",
    EventsLost: "lost",
}
EventBody = (
    CallStarted
    | AudioSent
    | TextSpoken
    | SpeechStarted
    | SpeechStopped
    | KeyPressed
    | CallError
    | Disconnected
    | EventsLost
)


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What happened in which call, `at_s` seconds after its slot was reserved: the clock of the call's record.

    `EventsLost` of a subscription to all calls has no call: `call_sid` "".
    """

    call_sid: CallSid
    at_s: float
    body: EventBody

    def to_json(self) -> str:
        """Return the event as one JSON object; audio is base64."""
        fields = {field.name: getattr(self.body, field.name) for field in dataclasses.fields(self.body)}
        if isinstance(self.body, AudioSent):
            fields["payload"] = write_payload(self.body.payload)
        event = {"call_sid": self.call_sid, "at_s": round(self.at_s, 4), "event": EVENT_NAMES[type(self.body)]}
        return write_message(event | fields)


class Subscription:
    """The events of one call (until it is over) or of all, to be read with `async for` by one reader.

    An async context manager: leave it to unsubscribe. Made by `Events.subscribe`.
    """

    def __init__(self, events: "Events", call_sid: CallSid | None, audio: bool, room: int) -> None:
        self.call_sid, self.audio = call_sid, audio
        self._events = events
        self._queue: deque[CallEvent] = deque(maxlen=room)
        self._lost = 0
        self._finished = False
        self._changed = asyncio.Event()

    def put(self, event: CallEvent) -> None:
        """Queue an event; without room the oldest one is lost."""
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
            return CallEvent(self.call_sid or CallSid(""), self._queue[0].at_s, EventsLost(lost))
        return self._queue.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._events.unsubscribe(self)


class Events:
    """All subscriptions. Everything here runs on the event loop and never waits."""

    def __init__(self) -> None:
        self._to_all: list[Subscription] = []
        self._to_call: dict[CallSid, list[Subscription]] = {}

    def subscribe(
        self, call_sid: CallSid | None = None, *, audio: bool = False, room: int = QUEUED_EVENTS
    ) -> Subscription:
        """Subscribe to one call, which need not have rung yet, or to all calls; with their `audio` if wanted."""
        subscription = Subscription(self, call_sid, audio, room)
        (self._to_all if call_sid is None else self._to_call.setdefault(call_sid, [])).append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; twice does no harm."""
        call_sid = subscription.call_sid
        if call_sid is None:
            self._to_all = [one for one in self._to_all if one is not subscription]
        elif left := [one for one in self._to_call.get(call_sid, ()) if one is not subscription]:
            self._to_call[call_sid] = left
        else:
            self._to_call.pop(call_sid, None)

    def wanted(self, call_sid: CallSid) -> bool:
        """Tell whether anybody subscribes to this call; if not, its events need not be made."""
        return bool(self._to_all) or call_sid in self._to_call

    def publish(self, event: CallEvent) -> None:
        """Pass an event on; a subscription to its call alone is finished when the call is over."""
        for subscription in [*self._to_all, *self._to_call.get(event.call_sid, ())]:
            if subscription.audio or not isinstance(event.body, AudioSent):
                subscription.put(event)
        if isinstance(event.body, Disconnected):
            self._finish(event.call_sid)

    def _finish(self, call_sid: CallSid) -> None:
        for subscription in self._to_call.pop(call_sid, ()):
            subscription.finish()

    def close(self) -> None:
        """Finish all subscriptions."""
        for subscription in self._to_all:
            subscription.finish()
        self._to_all.clear()
        for call_sid in list(self._to_call):
            self._finish(call_sid)
