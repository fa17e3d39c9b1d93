"""One outbound call through Twilio's REST API: placed, followed to its end, or hung up when the command is stopped.

A request that gets no answer may have been carried out, and somebody's phone may ring. Then the account's calls are
searched, and a call that was placed is hung up. What stays unknown is reported.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.cli.outbound import CallResult, ExitStatus, call_result
from app.logging import mask_number
from app.twilio.events import CallSid
from app.twilio.rest import CallRequest, CallStatus, RestCall, TwilioRest
from app.twilio.rest_http import RestError

POLL_S = 1.0
SEARCH_AFTER_S = (0.0, 2.0, 4.0)
"""Waits before each search for a call that may have been placed."""
MARGIN_S = 3.0
"""Twilio's times are in whole seconds."""
NO_SLOT = "busy"


class OutboundCall:
    """One call: `run` places and follows it, `stop` hangs up if that is cut short.

    `refusal` tells why the bridge did not take an answered call, "" if it did.
    """

    def __init__(
        self,
        rest: TwilioRest,
        request: CallRequest,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        refusal: Callable[[CallSid], Awaitable[str]] | None = None,
    ) -> None:
        self._rest, self._request, self._sleep, self._refusal = rest, request, sleep, refusal
        self._placing: asyncio.Task[RestCall] | None = None
        self._began_s = 0.0

    async def run(self, show: Callable[[RestCall], None]) -> CallResult:
        """Place the call and `show` its status until it is over. Raises RestError if it is certainly not placed.

        After a cancellation call `stop`: Twilio may be placing the call.
        """
        self._began_s = time.monotonic()
        self._placing = asyncio.create_task(self._rest.place_call(self._request))
        try:
            call = await asyncio.shield(self._placing)
        except RestError as error:
            if not error.may_be_done:
                raise
            return await self._search(f"Twilio did not confirm the call ({error})", ExitStatus.FAILED)
        try:
            return await self._follow(call, show)
        except RestError as error:
            return CallResult(ExitStatus.UNKNOWN, f"{call.sid} cannot be followed, it may still be on: {error}")

    async def stop(self) -> CallResult:
        """Hang up, whatever the call's status; return what is known then."""
        self._rest.repeats_calls = False
        if self._placing is None:
            return CallResult(ExitStatus.STOPPED, "stopped before the call was placed")
        try:
            call = await asyncio.shield(self._placing)
        except RestError as error:
            if not error.may_be_done:
                return CallResult(ExitStatus.STOPPED, "stopped; the call was not placed")
            return await self._search("stopped while Twilio had the request to call", ExitStatus.STOPPED)
        return await self._hang_up(call.sid, "stopped", ExitStatus.STOPPED)

    def give_up(self) -> CallResult:
        """Return what is known when `stop` was cut short as well."""
        if self._placing and self._placing.done() and not self._placing.exception():
            return CallResult(ExitStatus.UNKNOWN, f"stopped at once; {self._placing.result().sid} may still be on")
        return CallResult(ExitStatus.UNKNOWN, f"stopped at once; {self._callee} may be called")

    @property
    def _callee(self) -> str:
        return mask_number(self._request.to)

    async def _follow(self, call: RestCall, show: Callable[[RestCall], None]) -> CallResult:
        show(call)
        while not call.status.over:
            await self._sleep(POLL_S)
            call = await self._rest.fetch_call(call.sid)
            show(call)
        if call.status is CallStatus.COMPLETED and self._refusal and (why := await self._refusal(call.sid)):
            reason = "had no free slot" if why == NO_SLOT else f"did not take the call: {why}"
            return CallResult(ExitStatus.NO_SLOT, f"answered, but the bridge {reason}")
        try:
            return call_result(call, await self._rest.call_errors(call.sid))
        except RestError as error:
            found = call_result(call, ())
            return CallResult(found.status, f"{found.sentence}; what Twilio notes of it cannot be read: {error}")

    async def _search(self, reason: str, known: ExitStatus) -> CallResult:
        """Search for a call that may have been placed and hang it up; the exit status is `known` once that is clear."""
        trouble = ""
        for wait_s in SEARCH_AFTER_S:
            await self._sleep(wait_s)
            within_s = time.monotonic() - self._began_s + MARGIN_S
            try:
                found = await self._rest.recent_calls(self._request.to, self._request.from_number, within_s)
            except RestError as error:
                trouble = f": {error}"
                continue
            if found:
                return await self._end_found(found, reason, known)
            trouble = ", and Twilio lists no such call so far"
        return CallResult(ExitStatus.UNKNOWN, f"{reason}; {self._callee} may be called{trouble}")

    async def _end_found(self, found: tuple[RestCall, ...], reason: str, known: ExitStatus) -> CallResult:
        if len(found) > 1:
            sids = ", ".join(call.sid for call in found)
            return CallResult(ExitStatus.UNKNOWN, f"{reason}; it may be on, and is one of {sids}: none was hung up")
        [call] = found
        if call.status.over:
            return CallResult(known, f"{reason}; it was placed, and is over: {call.status} ({call.sid})")
        return await self._hang_up(call.sid, f"{reason}; it was placed", known)

    async def _hang_up(self, sid: CallSid, reason: str, known: ExitStatus) -> CallResult:
        try:
            was_on = await self._rest.hang_up(sid)
        except RestError as error:
            return CallResult(ExitStatus.UNKNOWN, f"{reason}, but {sid} may still be on: {error}")
        return CallResult(known, f"{reason}; the call {'was hung up' if was_on else 'was over already'}")
