"""The log lines of a call."""

import logging

from app.calls.active_call import ActiveCall, ObserverFactory
from app.calls.observer import CallObserver
from app.calls.record import ERRORS
from app.calls.session import End
from app.twilio.events import DtmfPressed, Event


class LogLines(CallObserver):
    """Logs one stream's slot, keys (hidden unless `log_digits`: they may be a PIN) and end."""

    def __init__(self, call: ActiveCall, log_digits: bool) -> None:
        self._call, self._log_digits = call, log_digits

    @classmethod
    def factory(cls, log_digits: bool) -> ObserverFactory:
        return lambda call: cls(call, log_digits)

    def on_reserved(self, now: float) -> None:
        self._call.log.info("slot %d reserved", self._call.reservation.slot)

    def on_connected(self, now: float) -> None:
        if self._call.session.stream.number > 1:
            self._call.log.info("the call is back: stream %d", self._call.session.stream.number)

    def on_event(self, event: Event, now: float) -> None:
        if isinstance(event, DtmfPressed):
            self._call.log.info("key %.1s", event.digit if self._log_digits else "*")

    def on_end(self, end: End, now: float) -> None:
        counts = dict(self._call.session.counts)
        level = logging.WARNING if end.reason in ERRORS else logging.INFO
        detail = f" ({end.detail})" if end.detail else ""
        facts = {"end": end.reason.name.lower(), "counts": counts}
        self._call.log.log(level, "ended: %s%s %s", end.reason, detail, counts, extra={"facts": facts})
