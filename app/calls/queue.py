"""Callers who wait for a slot, and how the first in the queue gets one.

A slot that comes free is reserved at once for the caller who came first, so that nobody gets in between, and the call
is redirected to the voice webhook, which finds the reservation. Where Twilio cannot be told, the caller's next wait
page has them leave Twilio's queue instead; that takes as long as a page lasts. A caller who does not come in time loses
the slot to the next one. Twilio asks for the wait page again each time that one has run out: a call of which nothing
has come for `ASKS_WITHIN_S` has left, though nobody said so. After a restart of the service callers are queued in the
order in which Twilio asks for their pages.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from app.calls.admission import VoiceRequest
from app.calls.manager import NO_REQUEST, CallManager
from app.logging import CallLogger
from app.twilio import twiml
from app.twilio.errors import CarrierError
from app.twilio.events import CallSid
from app.twilio.public_address import PublicAddress

log = logging.getLogger(__name__)

PAUSE_S = 4
"""How long one wait page lasts."""
ASKS_WITHIN_S = 20.0
"""How long Twilio may take to ask for the next one."""


class CallRedirector(Protocol):
    """Redirects a call that is on."""

    async def redirect(self, call_sid: CallSid, url: str) -> None:
        """Have Twilio ask `url` for TwiML, now. Raises CarrierError."""


async def try_redirect(redirector: CallRedirector, call_sid: CallSid, url: str, call_log: CallLogger, why: str) -> bool:
    """Redirect a call; whatever Twilio says, the others go on: tell whether it agreed, and log that with `why`."""
    try:
        await redirector.redirect(call_sid, url)
    except Exception as error:
        call_log.warning("%s, but not redirected: %s", why, error, exc_info=not isinstance(error, CarrierError))
        return False
    call_log.info("%s, redirected", why)
    return True


class CallQueue:
    """At most `longest` calls; without a `redirector` they leave Twilio's queue with their next wait page."""

    def __init__(
        self,
        manager: CallManager,
        longest: int,
        redirector: CallRedirector | None,
        public: PublicAddress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._longest = longest
        self._redirector = redirector
        self._public = public
        self._clock = clock
        self._waiting: dict[CallSid, tuple[float, VoiceRequest]] = {}  # in the order in which they came
        """When Twilio last asked for the page of a call, and what its first webhook asked for."""
        self._to_redirect: asyncio.Queue[CallSid] = asyncio.Queue()  # no more than there are slots
        self._unreached: set[CallSid] = set()
        """Those who have a slot and have not been redirected."""
        manager.on_slot_free = self.reserve_next

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, call_sid: CallSid) -> bool:
        return call_sid in self._waiting

    async def run(self) -> None:
        """Redirect those whose turn it is, until cancelled."""
        if self._redirector is None:
            return
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self._redirect(self._redirector, await self._to_redirect.get()))

    def enter(self, call_sid: CallSid, request: VoiceRequest = NO_REQUEST) -> bool:
        """Queue a call, or keep its place; False if the queue is full or no calls are accepted any more."""
        self._drop_gone()
        is_full = len(self) >= self._longest and call_sid not in self
        if is_full or not self._manager.accepting:
            return False
        _, first = self._waiting.get(call_sid, (0.0, request))
        self._waiting[call_sid] = self._clock(), first  # keeps its place
        self.reserve_next()
        return True

    def leave(self, call_sid: CallSid) -> None:
        self._waiting.pop(call_sid, None)

    def page(self, call_sid: CallSid, request: VoiceRequest = NO_REQUEST) -> str:
        """Return the next wait page of a call, as TwiML; one of a call that is connected by now is late.

        While the service starts it knows of no queue: callers keep waiting.
        """
        if not (self._manager.accepting or self._manager.draining):
            return twiml.pause(PAUSE_S)
        if not self._manager.holds(call_sid) and self._manager.call(call_sid):
            return twiml.pause(PAUSE_S)
        if not self._manager.holds(call_sid) and not self.enter(call_sid, request):
            return twiml.hangup()
        return twiml.leave() if call_sid in self._unreached else twiml.pause(PAUSE_S)

    def reserve_next(self) -> None:
        """Reserve free slots for those who came first."""
        self._unreached = {call_sid for call_sid in self._unreached if self._manager.holds(call_sid)}
        self._drop_gone()
        while self._waiting and self._manager.ready:
            call_sid, (_, request) = next(iter(self._waiting.items()))
            self.leave(call_sid)
            self._manager.reserve(call_sid, request)
            if self._redirector:
                self._to_redirect.put_nowait(call_sid)
            else:
                self._unreached.add(call_sid)

    def _drop_gone(self) -> None:
        now = self._clock()
        for call_sid in [sid for sid, (asked_s, _) in self._waiting.items() if now - asked_s > ASKS_WITHIN_S]:
            self.leave(call_sid)

    async def _redirect(self, redirector: CallRedirector, call_sid: CallSid) -> None:
        if not self._manager.holds(call_sid):  # they hung up, or a worker died, before this task's turn came
            return
        url = f"{self._public.base_url}/twilio/voice"
        if not await try_redirect(redirector, call_sid, url, CallLogger(log, call_sid), "first in the queue"):
            self._unreached.add(call_sid)
