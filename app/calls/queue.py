"""Where callers wait for a slot, and how the first in line gets it.

A slot that comes free is reserved for the first in line at once, so nobody can step in between, and the call is
redirected to the voice webhook, which finds the reservation. Where Twilio cannot be told, the caller's next wait page
tells him to leave the line instead; that takes as long as a page lasts. He who does not come in time loses the slot to
the next, and is at the end of the line if he is heard of again; so is everybody, in the order in which they are heard
of, when the service has been started anew.
"""

import asyncio
import logging
import time
from typing import Protocol

from app.calls.manager import CallManager
from app.calls.waiting_callers import PAUSE_S, WaitingCallers
from app.logging import CallLog
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.public_address import PublicAddress

log = logging.getLogger(__name__)


class CallRedirector(Protocol):
    """What can tell Twilio where a call that is on goes next."""

    async def redirect(self, call_sid: CallSid, url: str) -> None:
        """Have Twilio ask `url` for TwiML, now; raises if Twilio will not."""


class CallQueue:
    """The line in front of a manager. Without a `redirector` callers leave it with their next wait page."""

    def __init__(
        self, manager: CallManager, longest: int, redirector: CallRedirector | None, public: PublicAddress
    ) -> None:
        self._manager = manager
        self._line = WaitingCallers(longest)
        self._redirector = redirector
        self._public = public
        self._to_redirect: asyncio.Queue[CallSid] = asyncio.Queue()  # no more than there are slots
        self._unreached: set[CallSid] = set()
        """Those who have a slot and have not been redirected."""
        manager.on_slot_free = self.call_next

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, call_sid: CallSid) -> bool:
        return call_sid in self._line

    async def run(self) -> None:
        """Redirect those whose turn it is, until cancelled."""
        if self._redirector is None:
            return
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self._redirect(self._redirector, await self._to_redirect.get()))

    def enter(self, call_sid: CallSid) -> bool:
        """Put a call in line, or keep it there; False if the line is full or nobody is let in any more."""
        if not self._manager.accepting or not self._line.join(call_sid, time.monotonic()):
            return False
        self.call_next()
        return True

    def leave(self, call_sid: CallSid) -> None:
        """Take a call out of the line, if it is in it."""
        self._line.leave(call_sid)

    def page(self, call_sid: CallSid) -> str:
        """Return what a caller in line hears next, as TwiML; a page for one who talks by now is late."""
        if not self._manager.holds(call_sid) and self._manager.call(call_sid):
            return twiml.pause(PAUSE_S)
        if not self._manager.holds(call_sid) and not self.enter(call_sid):
            return twiml.hangup()
        return twiml.leave() if call_sid in self._unreached else twiml.pause(PAUSE_S)

    def call_next(self) -> None:
        """Reserve what is free for those who are first in line."""
        self._unreached = {call_sid for call_sid in self._unreached if self._manager.holds(call_sid)}
        while self._manager.ready and (call_sid := self._line.call_next(time.monotonic())):
            self._manager.reserve(call_sid)
            if self._redirector:
                self._to_redirect.put_nowait(call_sid)
            else:
                self._unreached.add(call_sid)

    async def _redirect(self, redirector: CallRedirector, call_sid: CallSid) -> None:
        if not self._manager.holds(call_sid):  # he hung up, or a worker died, before this task's turn came
            return
        call_log = CallLog(log, call_sid)
        try:
            await redirector.redirect(call_sid, f"{self._public.base_url}/twilio/voice")
        except Exception as error:  # the root of this task: whatever Twilio says, the line goes on
            call_log.warning("first in line, but not redirected: %s", error)
            self._unreached.add(call_sid)
        else:
            call_log.info("first in line, redirected")
