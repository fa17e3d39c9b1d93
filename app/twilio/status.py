"""Twilio's status callbacks for calls and streams.

https://www.twilio.com/docs/voice/api/call-resource#statuscallback,
https://www.twilio.com/docs/voice/twiml/stream#statuscallback
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

LONGEST_TEXT = 200
STREAM_ERROR = "stream-error"
_OVER = {"completed", "busy", "failed", "no-answer", "canceled"}
_CODE = re.compile(r"(?<!\d)[1-9]\d{4}(?!\d)")


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
        return self.status in _OVER


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
    code = _code(form.get("ErrorCode", "")) or _code(form.get("StreamError", ""))
    if event := form.get("StreamEvent"):
        return StreamStatusCallback(
            _text(event), _text(form.get("StreamError", "")), code, _text(form.get("StreamSid", ""))
        )
    if status := form.get("CallStatus"):
        sequence = _count(form.get("SequenceNumber", ""))
        return CallStatusCallback(_text(status), _count(form.get("CallDuration", "")), code, sequence)
    return None


def _code(text: str) -> int | None:
    """Return the first number of five digits, as Twilio's codes are."""
    found = _CODE.search(text[:LONGEST_TEXT])
    return int(found[0]) if found else None


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _text(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:LONGEST_TEXT])
