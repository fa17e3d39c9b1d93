"""Logging of every process: text or JSON, one line per record, secrets and phone numbers hidden.

Logging never blocks: lines go through a bounded queue to a thread that writes them. While standard error is not read (a
paused terminal, a full pipe) the newest lines are dropped and counted.
"""

import contextlib
import json
import logging
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from logging.handlers import QueueHandler, QueueListener
from types import TracebackType
from typing import TextIO

log = logging.getLogger(__name__)

KEPT_DIGITS = 4
HIDDEN = "…"
SHORTEST_SECRET = 8
LINES_WAITING = 4_096
FLUSH_WITHIN_S = 1.0
LOGGERS = ("app", "workers", "scripts")
"""Our loggers. Others log warnings only: their DEBUG lines hold headers, numbers and SQL statements."""
_NUMBER = re.compile(r"(\+|%2[Bb])\d{3,11}(?=\d{4}(?!\d))")
_USERINFO = re.compile(r"(?<=://)[^/?#\s]+@")
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_BREAKS = {code: f"\\u{code:04x}" for code in (127, 0x85, 0x2028, 0x2029)}
"""Line ends to some readers, though not to JSON."""

Hide = Callable[[str], str]


class LineFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def mask_userinfo(text: str) -> str:
    """Return a text with user and password of each URL in it hidden."""
    return _USERINFO.sub(f"{HIDDEN}@", text)


def hiding(secrets: Iterable[str]) -> Hide:
    """Return a function that masks these secrets, userinfo in URLs, and all but four digits of phone numbers."""
    known = sorted((secret for secret in secrets if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, known)) or r"(?!)")
    return lambda text: _NUMBER.sub(HIDDEN, pattern.sub(HIDDEN, mask_userinfo(text)))


class LineFormatter(logging.Formatter):
    """`call_sid` is in the lines of a call; `facts` are fields that belong to the message, in JSON only."""

    def __init__(self, process: str, line_format: LineFormat, hide: Hide) -> None:
        super().__init__()
        self._process, self._hide = process, hide
        self._format = {LineFormat.TEXT: self._text, LineFormat.JSON: self._json}[line_format]

    def format(self, record: logging.LogRecord) -> str:
        exception = self._hide(self.formatException(record.exc_info)) if record.exc_info else ""
        return self._format(record, self._hide(record.getMessage()), getattr(record, "call_sid", ""), exception)

    def _text(self, record: logging.LogRecord, message: str, call_sid: str, exception: str) -> str:
        who = record.name if self._process == "app" else f"{self._process} {record.name}"
        call = f"call_sid={call_sid} " if call_sid else ""
        line = f"{self.formatTime(record)} {record.levelname:7} {who} {call}{message.translate(_CONTROL)}"
        return f"{line}\n{exception}" if exception else line

    def _json(self, record: logging.LogRecord, message: str, call_sid: str, exception: str) -> str:
        facts: dict[str, object] = getattr(record, "facts", {})
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            **({"call_sid": call_sid} if call_sid else {}),
            "message": message,
            **facts,
            **({"exception": exception} if exception else {}),
        }
        return json.dumps(fields, ensure_ascii=False, default=str).translate(_BREAKS)


class _Writer(QueueListener):
    """Writes the queued lines in a thread of its own; logs how many were lost once it has caught up.

    No `StreamHandler`: at exit `logging.shutdown` takes every handler's lock, and would wait for one that writes.
    """

    def __init__(self, lines: "queue.Queue[logging.LogRecord]", stream: TextIO) -> None:
        super().__init__(lines)
        self._lines, self._stream = lines, stream
        self.lost = 0

    def handle(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # standard error is closed: nobody reads
            self._stream.write(record.getMessage() + "\n")
            self._stream.flush()
        if self.lost and self._lines.empty():
            lost, self.lost = self.lost, 0
            log.warning("%d lines were lost: standard error was not read", lost)


class LineHandler(QueueHandler):
    """Formats lines and queues them for the thread that writes them; never waits: a line that finds no room is lost."""

    def __init__(self, stream: TextIO, most: int = LINES_WAITING) -> None:
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(most)
        super().__init__(self._lines)
        self._writer = _Writer(self._lines, stream)
        self._writer.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._writer.lost += 1

    def flush(self) -> None:
        """Wait until all lines are written, for `FLUSH_WITHIN_S` at most."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, FLUSH_WITHIN_S)


def start_process_logging(process: str, level: str, line_format: LineFormat, secrets: Iterable[str] = ()) -> None:
    """Log to standard error under the name of this process: our loggers from `level` on, others warnings only."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(LineFormatter(process, line_format, hiding(secrets)))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(level)


def log_uncaught_exceptions() -> None:
    """Log warnings, and the exceptions that end this process or one of its threads."""
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda hook: _log_uncaught(hook.exc_type, hook.exc_value, hook.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is None or not issubclass(kind, Exception):  # Ctrl-C, say
        sys.__excepthook__(kind, error or kind(), traceback)
        return
    log.critical("uncaught exception", exc_info=error)
    flush_logging()


def flush_logging() -> None:
    """Wait until all lines are written, before something else is written to standard error."""
    for handler in logging.getLogger().handlers:
        handler.flush()
