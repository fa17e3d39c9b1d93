"""A call that waits in line: follow the wait pages until it is redirected, told to leave, or the caller gives up."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum

from app.twilio import twiml
from app.twilio.events import CallSid

AskPage = Callable[[], Awaitable[Sequence[twiml.Verb]]]


class Left(StrEnum):
    """Why a call has left the line."""

    REDIRECTED = "redirected"
    TOLD_TO = "leave"
    SERVER_HUNG_UP = "<Hangup> while waiting"
    CALLER_GAVE_UP = "the caller gave up waiting"

    @property
    def queue_result(self) -> str:
        """The same in Twilio's words."""
        return self if self in (Left.REDIRECTED, Left.TOLD_TO) else "hangup"


class Exchange:
    """Knows who waits, and redirects them as Twilio's REST API does."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[str]] = {}

    async def redirect(self, call_sid: str, url: str) -> None:
        """Have a waiting call ask `url` what to do. Raises LookupError when there is none."""
        redirected = self._waiting.get(call_sid)
        if redirected is None or redirected.done():
            raise LookupError(f"no call {call_sid} waits")
        redirected.set_result(url)

    @contextlib.contextmanager
    def waiting(self, call_sid: CallSid) -> Iterator["asyncio.Future[str]"]:
        """Keep a call in line; the future is where it is redirected to."""
        redirected = self._waiting[call_sid] = asyncio.get_running_loop().create_future()
        try:
            yield redirected
        finally:
            del self._waiting[call_sid]


async def wait_in_line(ask_page: AskPage, redirected: "asyncio.Future[str]", patience_s: float) -> Left:
    """Follow one wait page after the other, for no more than `patience_s` of their pauses.

    Raises `TwimlError` for a page that takes no time.
    """
    while True:
        paused = False
        for verb in await ask_page():
            match verb:
                case twiml.Pause(seconds):
                    paused = True
                    if (await asyncio.wait({redirected}, timeout=min(seconds, patience_s)))[0]:
                        return Left.REDIRECTED
                    if (patience_s := patience_s - seconds) <= 0:
                        return Left.CALLER_GAVE_UP
                case twiml.Leave():
                    return Left.TOLD_TO
                case twiml.Hangup():
                    return Left.SERVER_HUNG_UP
        if not paused:
            raise twiml.TwimlError("a wait page that takes no time")
