"""What happens in the calls, for whoever embeds the service.

    async with manager.events.subscribe(call_sid) as news:
        async for event in news:
            match event.what: ...

Nobody who listens can slow a call: what happens is put into a queue of each subscription and nothing is waited for. A
subscription that is not read loses its oldest events, and is told how many before it gets the next one (`Lost`).
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self, assert_never

from app.calls.record import EndReason
from app.twilio.events import CallSid
from app.twilio.wire import write_message, write_payload

ROOM = 512
"""Events that wait for one subscriber: five seconds of a call with its audio, minutes without."""


class Direction(StrEnum):
    """Which way audio goes: from the caller, or to him."""

    IN = "in"
    OUT = "out"


class Speaker(StrEnum):
    """Who speaks."""

    CALLER = "caller"
    MOSHI = "moshi"


@dataclass(frozen=True, slots=True)
class Connected:
    """The stream of the call has started; both can be heard from now on."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Mu-law at 8 kHz: a packet as it came from the caller, or as it was sent to him."""

    direction: Direction
    payload: bytes


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of what Moshi thinks as he speaks; those of a greeting come while the phone still rings."""

    piece: str


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody has begun to speak, as far as levels tell (`app.audio.activity`); the call does not use it."""

    speaker: Speaker


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """Somebody has stopped speaking, as far as levels tell: information, the call does not use it."""

    speaker: Speaker


@dataclass(frozen=True, slots=True)
class Dtmf:
    """The caller has pressed a key."""

    digit: str


@dataclass(frozen=True, slots=True)
class Error:
    """Something has gone wrong that ends the call; `Disconnected` follows."""

    reason: EndReason
    detail: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream is over, and with it the call unless it comes back: then `Connected` follows."""

    reason: EndReason
    detail: str


@dataclass(frozen=True, slots=True)
class Lost:
    """So many events were not read in time and are gone."""

    count: int


What = Connected | Audio | Text | SpeechStarted | SpeechStopped | Dtmf | Error | Disconnected | Lost


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What happened in which call, `at_s` seconds after its slot was reserved: the clock of the call's record.

    A `Lost` of a subscription to all calls has no call: `call_sid` "".
    """

    call_sid: CallSid
    at_s: float
    what: What

    def to_json(self) -> str:
        """Return the event as one JSON object; audio is base64."""
        return write_message({"call_sid": self.call_sid, "at_s": round(self.at_s, 4), **_fields(self.what)})


class Subscription:
    """The events of one call (until it is over) or of all, to be read with `async for` by one reader.

    An async context manager: leave it to unsubscribe. Made by `Events.subscribe`.
    """

    def __init__(self, events: "Events", call_sid: CallSid | None, audio: bool, room: int) -> None:
        self.call_sid, self.audio = call_sid, audio
        self._events = events
        self._waiting: deque[CallEvent] = deque(maxlen=room)
        self._lost = 0
        self._over = False
        self._news = asyncio.Event()

    def put(self, event: CallEvent) -> None:
        """Queue an event; the oldest one is lost if there is no room."""
        self._lost += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(event)
        self._news.set()

    def finish(self) -> None:
        """Let the reader come to the end once he has read what is left."""
        self._over = True
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CallEvent:
        while not self._waiting:
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return CallEvent(self.call_sid or CallSid(""), self._waiting[0].at_s, Lost(lost))
        return self._waiting.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._events.unsubscribe(self)


class Events:
    """Who listens to what. Everything here runs on the event loop and never waits."""

    def __init__(self) -> None:
        self._of_all: list[Subscription] = []
        self._of_call: dict[CallSid, list[Subscription]] = {}

    def subscribe(self, call_sid: CallSid | None = None, *, audio: bool = False, room: int = ROOM) -> Subscription:
        """Listen to one call, which need not have rung yet, or to all calls; with their `audio` if that is wanted."""
        subscription = Subscription(self, call_sid, audio, room)
        among = self._of_all if call_sid is None else self._of_call.setdefault(call_sid, [])
        among.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Listen no more; once is enough, twice does no harm."""
        call_sid = subscription.call_sid
        if call_sid is None:
            self._of_all = [one for one in self._of_all if one is not subscription]
        elif left := [one for one in self._of_call.get(call_sid, ()) if one is not subscription]:
            self._of_call[call_sid] = left
        else:
            self._of_call.pop(call_sid, None)

    def wanted(self, call_sid: CallSid) -> bool:
        """Tell whether anybody listens to this call; while nobody does, nothing need be found out."""
        return bool(self._of_all) or call_sid in self._of_call

    def publish(self, event: CallEvent) -> None:
        """Tell those who listen to this call; a subscription to it alone is over when the call is."""
        for subscription in [*self._of_all, *self._of_call.get(event.call_sid, ())]:
            if subscription.audio or not isinstance(event.what, Audio):
                subscription.put(event)
            if isinstance(event.what, Disconnected) and subscription.call_sid:
                self._let_go(subscription)

    def close(self) -> None:
        """Let all who listen come to the end."""
        for subscription in [*self._of_all, *(one for ones in self._of_call.values() for one in ones)]:
            self._let_go(subscription)

    def _let_go(self, subscription: Subscription) -> None:
        subscription.finish()
        self.unsubscribe(subscription)


def _fields(what: What) -> dict[str, object]:
    match what:
        case Connected():
            return {"event": "connected"}
        case Audio(direction, payload):
            return {"event": "audio", "direction": direction, "payload": write_payload(payload)}
        case Text(piece):
            return {"event": "text", "text": piece}
        case SpeechStarted(speaker):
            return {"event": "speech_started", "speaker": speaker}
        case SpeechStopped(speaker):
            return {"event": "speech_stopped", "speaker": speaker}
        case Dtmf(digit):
            return {"event": "dtmf", "digit": digit}
        case Error(reason, detail):
            return {"event": "error", "reason": reason, "detail": detail}
        case Disconnected(reason, detail):
            return {"event": "disconnected", "reason": reason, "detail": detail}
        case Lost(count):
            return {"event": "lost", "count": count}
        case _:
            assert_never(what)
