"""A call in Twilio's queue: follow the wait pages until it is redirected, told to leave, or the caller hangs up."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from app.simulator.remote import Remote
from app.twilio import twiml

FetchPage = Callable[[], Awaitable[Sequence[twiml.Verb]]]


class LeftQueue(StrEnum):
    """Why a call has left the queue."""

    ORDERED = "redirected"
    LEAVE = "leave"
    SERVER_HUNG_UP = "<Hangup> while waiting"
    CALLER_HUNG_UP = "the caller gave up waiting"

    @property
    def queue_result(self) -> str:
        """Twilio's QueueResult."""
        return self if self in (LeftQueue.ORDERED, LeftQueue.LEAVE) else "hangup"


async def wait_in_queue(fetch_page: FetchPage, remote: Remote, patience_s: float) -> LeftQueue:
    """Follow one wait page after the other; the caller hangs up after `patience_s` of pauses.

    Raises `TwimlError` for a page without a pause, which would be fetched without end.
    """
    while True:
        paused = False
        for verb in await fetch_page():
            match verb:
                case twiml.Pause(seconds):
                    paused = True
                    if await _ordered_within(remote, min(seconds, patience_s)):
                        return LeftQueue.ORDERED
                    if (patience_s := patience_s - seconds) <= 0:
                        return LeftQueue.CALLER_HUNG_UP
                case twiml.Leave():
                    return LeftQueue.LEAVE
                case twiml.Hangup():
                    return LeftQueue.SERVER_HUNG_UP
        if not paused:
            raise twiml.TwimlError("a wait page that takes no time")


async def _ordered_within(remote: Remote, seconds: float) -> bool:
    try:
        await asyncio.wait_for(remote.wait(), seconds)
    except TimeoutError:
        return False
    return True
