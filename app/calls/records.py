"""The records of the calls that are on and of the last ones that have ended, one for each CallSid."""

from itertools import islice

from app.calls.record import CallRecord
from app.twilio.events import CallSid

RECORDS_KEPT = 200
RECORDS_WITH_SPANS = 8
"""How many of them keep the times of every frame."""


class CallRecords:
    """Of calls that have ended, `RECORDS_KEPT` are kept."""

    def __init__(self) -> None:
        self._on: dict[CallSid, CallRecord] = {}
        self._ended: dict[CallSid, CallRecord] = {}  # the one that ended first is first

    def get(self, call_sid: CallSid) -> CallRecord | None:
        return self._on.get(call_sid) or self._ended.get(call_sid)

    def all(self) -> list[CallRecord]:
        """Return those that have ended in the order of their ends, then those that are on, oldest first."""
        return [*self._ended.values(), *self._on.values()]

    def open(self, record: CallRecord) -> None:
        """Add a call that is on, or that has come back."""
        self._ended.pop(record.call_sid, None)
        self._on[record.call_sid] = record

    def close(self, record: CallRecord) -> None:
        """Move a call to those that have ended."""
        self._on.pop(record.call_sid, None)
        self._ended.pop(record.call_sid, None)
        self._ended[record.call_sid] = record
        if len(self._ended) > RECORDS_KEPT:
            del self._ended[next(iter(self._ended))]
        for old in islice(reversed(self._ended.values()), RECORDS_WITH_SPANS, RECORDS_WITH_SPANS + 1):
            old.spans.clear()
