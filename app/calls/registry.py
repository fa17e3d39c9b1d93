"""The calls that are on, and the records of the last ones that have ended, one for each CallSid."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from itertools import islice
from operator import itemgetter

from app.calls.active_call import ActiveCall
from app.calls.admission import VoiceRequest
from app.calls.end_reason import EndReason
from app.calls.record import CallRecord
from app.calls.session import CallState
from app.calls.statistics import Statistics
from app.twilio.events import CallSid
from workers.messages import Slot

RECORDS_KEPT = 200
"""Of calls that have ended; up to half of them may be of calls that are with a person, whose transfers will end."""
RECORDS_WITH_SPANS = 8
"""How many of them keep the times of every frame."""


class CallRegistry:
    """Looks calls up and adds up what they count; `clock` returns seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.statistics = Statistics()
        self.no_calls = asyncio.Event()
        """Set while no call is on."""
        self.no_calls.set()
        self._clock = clock
        self._calls: dict[Slot, ActiveCall] = {}
        self._ended: dict[CallSid, CallRecord] = {}  # the one that ended first is first

    @property
    def calls(self) -> list[ActiveCall]:
        """The calls that are on, in the order of their reservations."""
        return sorted(self._calls.values(), key=lambda call: call.reservation.epoch)

    @property
    def active_calls(self) -> int:
        """How many slots are reserved or in use."""
        return len(self._calls)

    @property
    def states(self) -> Counter[CallState]:
        return Counter(call.session.state for call in self._calls.values())

    @property
    def counts(self) -> Counter[str]:
        """What all calls have counted, by name, those that are on included."""
        total = self.statistics.counts.copy()
        for call in self._calls.values():
            total.update(call.session.counts)
        return total

    @property
    def phase_s(self) -> float | None:
        """When the next frame of a live call becomes complete; None without one."""
        now = self._clock()
        return next((moment for call in self._calls.values() if (moment := call.session.phase_s(now))), None)

    def call(self, call_sid: CallSid) -> ActiveCall | None:
        return next((call for call in self._calls.values() if call.session.record.call_sid == call_sid), None)

    @property
    def suspended(self) -> list[ActiveCall]:
        """The calls that wait for a pipeline that goes on with them, the one that waits longest first."""
        waiting = [(since_s, call) for call in self.calls if (since_s := call.session.suspended_since_s) is not None]
        return [call for _, call in sorted(waiting, key=itemgetter(0))]

    def holds(self, call_sid: CallSid) -> bool:
        """Tell whether a slot is reserved for this call, whose socket has not come yet."""
        call = self.call(call_sid)
        return call is not None and call.session.state is CallState.RESERVED

    def record(self, call_sid: CallSid) -> CallRecord | None:
        call = self.call(call_sid)
        return call.session.record if call else self._ended.get(call_sid)

    def end_transfer(self, call_sid: CallSid, status: str, duration_s: int | None) -> None:
        """The last transfer of a call is over, as the carrier says."""
        record = self.record(call_sid)
        if record and record.transfers:
            record.transfers[-1].end(status, duration_s, self._clock())

    def records(self) -> list[CallRecord]:
        """Return those that have ended in the order of their ends, then those that are on, oldest first."""
        return [*self._ended.values(), *(call.session.record for call in self.calls)]

    def drop_ended(self, call_sids: Collection[str]) -> list[CallSid]:
        """Drop the records of the given calls that are over; return those calls."""
        dropped = [call_sid for call_sid in self._ended if call_sid in call_sids]
        for call_sid in dropped:
            del self._ended[call_sid]
        return dropped

    def reject(self, call_sid: CallSid, request: VoiceRequest, detail: str) -> None:
        """Record that a call was hung up on for want of a slot; one that was served keeps its end."""
        now = self._clock()
        record = self.record(call_sid) or CallRecord(call_sid, now)
        record.set_parties(request.caller, request.called, request.direction)
        record.refused = detail
        if record.end is None:
            record.ended_s, record.end, record.detail = now, EndReason.NO_SLOT, detail
            self._add_ended(record)

    def _add(self, call: ActiveCall) -> None:
        self._ended.pop(call.session.record.call_sid, None)
        self._calls[call.reservation.slot] = call
        self.no_calls.clear()

    def _remove(self, call: ActiveCall) -> None:
        del self._calls[call.reservation.slot]
        self._add_ended(call.session.record)

    def _add_ended(self, record: CallRecord) -> None:
        self._ended.pop(record.call_sid, None)
        self._ended[record.call_sid] = record
        if len(self._ended) > RECORDS_KEPT:
            others = [one.call_sid for one in self._ended.values() if not one.is_transferred]
            del self._ended[others[0] if len(others) > RECORDS_KEPT // 2 else next(iter(self._ended))]
        for old in islice(reversed(self._ended.values()), RECORDS_WITH_SPANS, RECORDS_WITH_SPANS + 1):
            old.spans.clear()
