"""Twilio's status callbacks for calls and streams.

https://www.twilio.com/docs/voice/api/call-resource#statuscallback,
https://www.twilio.com/docs/voice/twiml/stream#statuscallback
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.twilio.form import parse_count, printable

LONGEST_TEXT = 200
STREAM_ERROR = "stream-error"
OVER = {"completed", "busy", "failed", "no-answer", "canceled"}
"""Statuses of a call of which nothing more can come."""
_CODE = re.compile(r"(?<!\d)[1-9]\d{4}(?!\d)")
"""Twilio's codes have five digits."""


@dataclass(frozen=True, slots=True)
class CallStatusCallback:
    """The status of a call; its length is known at its end."""

    status: str
    duration_s: int | None = None
    error_code: int | None = None
    sequence: int | None = None
    """Twilio's SequenceNumber, by which the callbacks of a call are in order; None where it sends none."""

    @property
    def over(self) -> bool:
        """Whether nothing more can come of the call."""
        return self.status in OVER


@dataclass(frozen=True, slots=True)
class StreamStatusCallback:
    """The status of a stream; `error` is Twilio's own sentence."""

    event: str
    error: str = ""
    error_code: int | None = None
    stream_sid: str = ""

    @property
    def sentence(self) -> str:
        """The error with its code."""
        code = str(self.error_code or "")
        return self.error if code in self.error else f"{code} {self.error}".strip()


Status = CallStatusCallback | StreamStatusCallback


def parse_status(form: Mapping[str, str]) -> Status | None:
    """Return what a status callback says, None if it is not known here; texts are cut off at `LONGEST_TEXT`."""
    code = _CODE.search(" ".join(form.get(name, "")[:LONGEST_TEXT] for name in ("ErrorCode", "StreamError")))
    error_code = int(code[0]) if code else None
    if event := _text(form, "StreamEvent"):
        return StreamStatusCallback(event, _text(form, "StreamError"), error_code, _text(form, "StreamSid"))
    if status := _text(form, "CallStatus"):
        return CallStatusCallback(status, _count(form, "CallDuration"), error_code, _count(form, "SequenceNumber"))
    return None


def _count(form: Mapping[str, str], name: str) -> int | None:
    return parse_count(form.get(name, ""))


def _text(form: Mapping[str, str], name: str) -> str:
    return printable(form.get(name, ""), LONGEST_TEXT)
