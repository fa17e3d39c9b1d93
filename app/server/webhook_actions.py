"""Carries out what the answer to a webhook asks for, in a call that is on."""

import logging
from typing import assert_never

from app.calls.manager import CallManager
from app.calls.sentences import SayRefused
from app.calls.transfer import TransferBy
from app.logging import CallLogger
from app.server.transfers import Transfers
from app.telemetry.webhooks.actions import Action, HangupAction, SayAction, TransferAction
from app.twilio.events import CallSid

log = logging.getLogger(__name__)


def carry_out(action: Action, call_sid: CallSid, manager: CallManager, transfers: Transfers) -> None:
    """Never waits; what cannot be done is one line in the log."""
    call, call_log = manager.call(call_sid), CallLogger(log, call_sid)
    match action:
        case _ if call is None:
            call_log.info("the answer to a webhook came after the call")
        case SayAction(text):
            try:
                call_log.info("the answer to a webhook has Moshi say sentence %d", call.say(text).number)
            except SayRefused as refused:
                call_log.warning("the answer to a webhook: Moshi cannot say it: %s", refused.reason)
        case TransferAction(to):
            transfers.start(call_sid, to, TransferBy.WEBHOOK)
        case HangupAction():
            call_log.info("the answer to a webhook hangs up")
            manager.hang_up(call_sid)
        case _:
            assert_never(action)
