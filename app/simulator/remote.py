"""What the carrier's REST API does to a call that is on, and the queue that a call waits in until it does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.twilio import twiml


@dataclass(frozen=True, slots=True)
class EndCall:
    """End the call."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Leave the stream or the queue and ask this URL for TwiML."""

    url: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Leave the stream or the queue and follow this TwiML."""

    twiml: str


Order = EndCall | Redirect | Follow


class Remote:
    """Holds the order for one call, which carries it out within a packet. A later order replaces an earlier one."""

    def __init__(self) -> None:
        self._order: Order | None = None
        self._given = asyncio.Event()

    @property
    def ordered(self) -> bool:
        return self._order is not None

    def send(self, order: Order) -> None:
        self._order = order
        self._given.set()

    def pop(self) -> Order | None:
        """Return the order, once."""
        order, self._order = self._order, None
        self._given.clear()
        return order

    async def ordered_within(self, seconds: float | None) -> bool:
        """Wait for an order; None waits as long as it takes."""
        try:
            return await asyncio.wait_for(self._given.wait(), seconds)
        except TimeoutError:
            return False


class LeftQueue(StrEnum):
    """Why a call has left Twilio's queue."""

    ORDERED = "redirected"
    LEAVE = "leave"
    SERVER_HUNG_UP = "<Hangup> while waiting"
    CALLER_HUNG_UP = "the caller gave up waiting"

    @property
    def queue_result(self) -> str:
        """Twilio's QueueResult."""
        return self if self in (LeftQueue.ORDERED, LeftQueue.LEAVE) else "hangup"


async def wait_in_queue(
    fetch_page: Callable[[], Awaitable[Sequence[twiml.Verb]]], remote: Remote, patience_s: float
) -> LeftQueue:
    """Follow one wait page after the other; the caller hangs up after `patience_s` of pauses.

    Raises `TwimlError` for a page without a pause, which would be fetched without end.
    """
    while True:
        paused = False
        for verb in await fetch_page():
            match verb:
                case twiml.Pause(seconds):
                    paused = True
                    if await remote.ordered_within(min(seconds, patience_s)):
                        return LeftQueue.ORDERED
                    if (patience_s := patience_s - seconds) <= 0:
                        return LeftQueue.CALLER_HUNG_UP
                case twiml.Leave():
                    return LeftQueue.LEAVE
                case twiml.Hangup():
                    return LeftQueue.SERVER_HUNG_UP
        if not paused:
            raise twiml.TwimlError("a wait page that takes no time")
