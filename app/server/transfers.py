"""Transfers a call that is on: Twilio leaves the stream and dials the person; the slot is free meanwhile.

When nobody answers the call is back at the voice webhook's answer, as any call that comes back.
"""

import asyncio
import logging
from typing import Protocol

from app.calls.active_call import ActiveCall
from app.calls.manager import CallManager
from app.calls.queue import CallRedirector
from app.calls.session import CallState
from app.calls.transfer import Transfer, TransferBy, TransferRefusal, TransferRefused, TransferRules
from app.config import Settings
from app.http.paths import AFTER_DIAL_PATH
from app.logging import CallLogger, mask_number
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.parties import ANONYMOUS, AddressKind, kind_of, name_of
from app.twilio.public_address import PublicAddress
from app.twilio.rest_http import RestError

log = logging.getLogger(__name__)


class CarrierRest(CallRedirector, Protocol):
    """What the carrier can do with a call that is on."""

    async def follow(self, call_sid: CallSid, twiml: str) -> None:
        """Have the call follow this TwiML, now. Raises RestError."""


class Transfers:
    """`rest` is None where the settings have no account."""

    def __init__(
        self, settings: Settings, manager: CallManager, public: PublicAddress, rest: CarrierRest | None
    ) -> None:
        self._manager, self._public, self._rest = manager, public, rest
        self._rules = TransferRules(settings.transfer.to, settings.transfer.allowed.split(","))
        self._limit_s, self._phone_number = settings.calls.max_seconds, settings.twilio.phone_number
        self._tasks: set[asyncio.Task[None]] = set()
        manager.on_transfer_key = lambda call: self.start(call.session.record.call_sid, "", TransferBy.KEY)

    async def transfer(self, call_sid: CallSid, to: str, by: TransferBy) -> Transfer:
        """Transfer a call to `to`, "" for its persona's or the default. Raises TransferRefused."""
        call = self._live(call_sid)
        target = self._rules.target(to, call.transfer_to)
        if self._rest is None:
            raise TransferRefused(TransferRefusal.NO_ACCOUNT, "TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN are needed")
        transfer = call.begin_transfer(target, by)
        call.log.info("%s has the call transferred to %s", by, mask_number(target))
        action, shown = self._public.base_url + AFTER_DIAL_PATH, _caller_id(call, target, self._phone_number)
        try:
            await self._rest.follow(call_sid, twiml.dial(target, action, shown, self._limit_s))
        except RestError as error:
            call.cancel_transfer(transfer, str(error))
            raise TransferRefused(TransferRefusal.NOT_PLACED, str(error)) from error
        call.on_transferred(transfer)
        return transfer

    def start(self, call_sid: CallSid, to: str, by: TransferBy) -> None:
        """Transfer a call without waiting; a refusal is logged."""
        task = asyncio.create_task(self._try(call_sid, to, by))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try(self, call_sid: CallSid, to: str, by: TransferBy) -> None:
        try:
            await self.transfer(call_sid, to, by)
        except TransferRefused as refused:
            CallLogger(log, call_sid).warning("%s asks for a transfer: %s", by, refused)
        except Exception:  # the root of this task
            CallLogger(log, call_sid).exception("internal error")

    def _live(self, call_sid: CallSid) -> ActiveCall:
        call = self._manager.call(call_sid)
        if call is None:
            raise TransferRefused(TransferRefusal.NOT_ON, "no such call is on")
        if call.request.chat:
            raise TransferRefused(TransferRefusal.NOT_LIVE, "a chat has no phone line")
        if call.session.state is not CallState.LIVE:
            raise TransferRefused(TransferRefusal.NOT_LIVE, "the call is not live: its stream has not started, or ends")
        return call


def _caller_id(call: ActiveCall, target: str, phone_number: str) -> str:
    """Return whom the person sees: the caller; a number of ours where the caller has or shows none.

    Twilio shows a number at a number (13214), and `+` before it.
    """
    record = call.session.record
    shown = [one for one in (record.caller, record.called, phone_number) if name_of(one) != ANONYMOUS]
    if target.startswith("+"):
        shown = [name for one in shown if kind_of(name := name_of(one)) is AddressKind.NUMBER and ":" not in one]
    return next(iter(shown), "")
