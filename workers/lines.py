"""Log lines of every process: for people or as JSON, one line each, without secrets and without phone numbers.

Whoever logs waits for nobody: lines are written by a thread, and when the reader of standard error stands still (a
paused terminal, a full pipe) the newest ones are lost and counted rather than calls held up.
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
from types import TracebackType
from typing import TextIO

log = logging.getLogger(__name__)

KEPT_DIGITS = 4
HIDDEN = "…"
SHORTEST_SECRET = 8
LINES_WAITING = 4_096
FLUSH_WITHIN_S = 1.0
LOGGERS = ("app", "workers", "scripts")
"""Ours: others are asked for warnings alone, because what they tell at DEBUG holds headers, numbers and statements."""
_NUMBER = re.compile(r"(\+|%2[Bb])\d{3,11}(?=\d{4}(?!\d))")
_USERINFO = re.compile(r"(?<=://)[^/?#\s]+@")
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_BREAKS = {code: f"\\u{code:04x}" for code in (127, 0x85, 0x2028, 0x2029)}
"""Ends of lines to some, though not to JSON."""

Hide = Callable[[str], str]


class LineFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


def mask_userinfo(text: str) -> str:
    """Return a text with user and password of each URL in it hidden."""
    return _USERINFO.sub(f"{HIDDEN}@", text)


def hiding(secrets: Iterable[str]) -> Hide:
    """Return what takes these secrets, users and passwords in URLs, and the first digits of numbers out of a text."""
    known = sorted((secret for secret in secrets if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, known)) or r"(?!)")
    return lambda text: _NUMBER.sub(HIDDEN, pattern.sub(HIDDEN, mask_userinfo(text)))


class _Lines(logging.Formatter):
    """What both kinds of lines have in common."""

    def __init__(self, process: str, hide: Hide) -> None:
        super().__init__()
        self._process = process
        self._hide = hide

    def _exception(self, record: logging.LogRecord) -> str:
        return self._hide(self.formatException(record.exc_info)) if record.exc_info else ""


class TextLines(_Lines):
    """For people: time, level, who, call, message. Only a traceback takes more than one line."""

    def format(self, record: logging.LogRecord) -> str:
        call_sid = getattr(record, "call_sid", "")
        who = record.name if self._process == "app" else f"{self._process} {record.name}"
        message = self._hide(record.getMessage()).translate(_CONTROL)
        said = f"call_sid={call_sid} {message}" if call_sid else message
        line = f"{self.formatTime(record)} {record.levelname:7} {who} {said}"
        return "\n".join(filter(None, (line, self._exception(record))))


class JsonLines(_Lines):
    """For machines: an object a line, `call_sid` in those of a call, and `facts` that belong to the message."""

    def format(self, record: logging.LogRecord) -> str:
        call_sid: str | None = getattr(record, "call_sid", None)
        facts: dict[str, object] | None = getattr(record, "facts", None)
        exception = self._exception(record)
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            **({"call_sid": call_sid} if call_sid else {}),
            "message": self._hide(record.getMessage()),
            **(facts or {}),
            **({"exception": exception} if exception else {}),
        }
        return json.dumps(fields, ensure_ascii=False, default=str).translate(_BREAKS)


FORMATS: dict[LineFormat, type[_Lines]] = {LineFormat.TEXT: TextLines, LineFormat.JSON: JsonLines}


class LineWriter(logging.Handler):
    """Writes lines to a stream from a thread of its own; `emit` never waits."""

    def __init__(self, stream: TextIO, most: int = LINES_WAITING) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: queue.Queue[str] = queue.Queue(most)
        self.lost = 0
        """Lines that found no room and that nobody has been told of."""
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # as in logging's own handlers: a line that cannot be made must not end a call
            self.handleError(record)
            return
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self.lost += 1

    def flush(self) -> None:
        """Wait until all lines are written, for `FLUSH_WITHIN_S` at most."""
        with self._waiting.all_tasks_done:
            self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, FLUSH_WITHIN_S)

    def _write(self) -> None:
        while True:
            line = self._waiting.get()
            with contextlib.suppress(OSError, ValueError):  # standard error is closed: nobody reads
                self._stream.write(line + "\n")
                self._stream.flush()
            self._waiting.task_done()
            if self.lost and self._waiting.empty():
                lost, self.lost = self.lost, 0
                log.warning("%d lines were lost: standard error was not read", lost)


def start_lines(process: str, level: str, line_format: LineFormat, secrets: Iterable[str] = ()) -> None:
    """Write the lines of this process to standard error: ours from a level on, of others warnings alone."""
    writer = LineWriter(sys.stderr)
    writer.setFormatter(FORMATS[line_format](process, hiding(secrets)))
    logging.basicConfig(handlers=[writer], level=logging.WARNING)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(level)


def take_last_words() -> None:
    """Let warnings, and what ends this process or one of its threads, be lines as well."""
    logging.captureWarnings(True)
    sys.excepthook = _tell
    threading.excepthook = lambda hook: _tell(hook.exc_type, hook.exc_value, hook.exc_traceback)


def _tell(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is None or not issubclass(kind, Exception):  # Ctrl-C, say
        sys.__excepthook__(kind, error or kind(), traceback)
        return
    log.critical("ended by what nobody foresaw", exc_info=error)
    flush_lines()


def flush_lines() -> None:
    """Have all lines written that there are, before something else is written to standard error."""
    for handler in logging.getLogger().handlers:
        handler.flush()
