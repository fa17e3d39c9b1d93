"""Logging: one line an event, `call_sid` on every line of a call, no phone number in full.

What a level means: ERROR, somebody must act. WARNING, somebody should look at it in the morning. INFO, how calls and
the service go. DEBUG, what else there is. `workers.logging` writes the lines, those of the workers as well.
"""

import logging
import sys
from collections import Counter
from collections.abc import Iterable, MutableMapping
from enum import StrEnum
from typing import Any

from app.twilio.events import CallSid
from app.twilio.parties import mask_number as mask_number
from workers.logging import LineFormat, start_process_logging

MINUTE_S = 60.0
MOST_ALIKE = 10
LIMITED_LOGGERS = ("app.cluster.log_store", "app.http.rate_limit", "app.http.twilio_routes", "uvicorn.error")
"""Loggers of what unauthenticated clients can cause: warnings, and uvicorn's errors when a body breaks HTTP.

And of what NATS may refuse for every call, again and again.
"""


class CallLogger(logging.LoggerAdapter[logging.Logger]):
    def __init__(self, logger: logging.Logger, call_sid: CallSid) -> None:
        super().__init__(logger, {"call_sid": call_sid})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**kwargs.get("extra", {}), **(self.extra or {})}
        return msg, kwargs


class RepeatFilter(logging.Filter):
    """Passes `MOST_ALIKE` warnings of one format a minute, so that unauthenticated clients cannot fill the disk.

    So with errors. The first one of a later minute says how many were dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since_s: dict[object, float] = {}
        self._seen: Counter[object] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        alike = record.levelno, record.msg
        if record.created - self._since_s.get(alike, -MINUTE_S) >= MINUTE_S:
            if (more := self._seen[alike] - MOST_ALIKE) > 0:
                record.msg = f"{record.msg} ({more} more like it were dropped)"
            self._since_s[alike], self._seen[alike] = record.created, 0
        self._seen[alike] += 1
        return self._seen[alike] <= MOST_ALIKE


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(StrEnum):
    AUTO = "auto"
    TEXT = "text"
    JSON = "json"

    def resolve(self) -> LineFormat:
        if self is LogFormat.AUTO:
            return LineFormat.TEXT if sys.stderr.isatty() else LineFormat.JSON
        return LineFormat(self)


def start_logging(level: LogLevel, line_format: LineFormat = LineFormat.TEXT, secrets: Iterable[str] = ()) -> None:
    start_process_logging("app", level, line_format, secrets)
    for name in ("uvicorn.access", "uvicorn.error", "alembic", "urllib3"):  # urllib3 would log numbers in URLs
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in LIMITED_LOGGERS:
        logging.getLogger(name).addFilter(RepeatFilter())
