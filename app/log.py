"""Logging: one line a fact, `call_sid` on every line of a call, no phone number in full."""

import logging
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any

from app.twilio.events import CallSid

KEPT_DIGITS = 4


def mask_number(number: str) -> str:
    """Return a phone number with all but its last four characters hidden."""
    if len(number) <= KEPT_DIGITS:
        return number
    return "…" + number[-KEPT_DIGITS:]


class CallLog(logging.LoggerAdapter[logging.Logger]):
    """Log lines of one call."""

    def __init__(self, logger: logging.Logger, call_sid: CallSid) -> None:
        super().__init__(logger, {"call_sid": call_sid})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = self.extra
        return f"call_sid={self.extra['call_sid'] if self.extra else ''} {msg}", kwargs


class LogLevel(StrEnum):
    """From which level on lines are written."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def start_logging(level: LogLevel) -> None:
    """Write lines to standard error."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s %(message)s", level=level)
    for name in ("uvicorn.access", "uvicorn.error", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
