"""The calls in progress as JSON: snapshots that all readers share, made only while somebody reads them.

A snapshot repeats the last seconds of what grows (text, durations of steps), numbered so that a reader can join them.
A slow reader skips snapshots; one that missed `REPEATED_S` has a gap and asks for the call's detail.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice, pairwise, takewhile
from statistics import median

from app.calls.events import Speaker
from app.calls.manager import ActiveCall, CallManager
from app.calls.record import CallRecord
from app.calls.session import CallState
from app.logging import mask_number
from app.telemetry.event_loop_lag import EventLoopLag
from workers.messages import FRAME_S, Span, Stage

SNAPSHOT_EVERY_S = 0.25
REPEATED_S = 4.0
"""How much of what has happened each snapshot says again."""
HISTORY_S = 60.0
"""How much the first one says, which somebody gets who begins to look."""
RECENT_PIECES = 50
"""Pieces of audio over which mouth to ear is told: four seconds."""
LAG_WINDOW_S = 10.0
LATENCY_POINTS = 240
"""How many points a call's delay over time is told in."""
STATES = {
    CallState.RESERVED: "ringing",
    CallState.CONNECTED: "connecting",
    CallState.LIVE: "active",
    CallState.DRAINING: "ending",
    CallState.ENDED: "ended",
}
OUTBOUND = "outbound"


class LiveView:
    """Tells of the calls of one manager; `waiting` is how many stand in line, `model` names what answers."""

    def __init__(
        self,
        manager: CallManager,
        waiting: Callable[[], int],
        lag: EventLoopLag,
        model: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._waiting = waiting
        self._lag = lag
        self._model = model
        self._now = clock
        self._latest = ""
        self._made_s = float("-inf")

    def latest(self) -> str:
        """Return a snapshot that is less than a beat old: whoever comes first makes it for all."""
        now = self._now()
        if now - self._made_s >= SNAPSHOT_EVERY_S / 2:
            self._latest, self._made_s = json.dumps(self.snapshot(now, REPEATED_S)), now
        return self._latest

    def first(self) -> str:
        """Return a snapshot for somebody who begins to look: it goes back a minute."""
        return json.dumps(self.snapshot(self._now(), HISTORY_S))

    def snapshot(self, now: float, back_s: float) -> dict[str, object]:
        """Return what goes on, with what was said and how long steps took in the last `back_s` seconds."""
        board, calls = self._manager, self._manager.calls
        return {
            "now_s": round(now, 3),
            "ready": board.ready,
            "draining": board.draining,
            "slots": board.slots,
            "free_slots": board.free_slots,
            "waiting": self._waiting(),
            "model": self._model,
            "frame_period_ms": FRAME_S * 1000,
            "processing_ms": _ms(board.processing_s),
            "lag_ms": _ms(self._lag.worst_s(LAG_WINDOW_S)),
            "steps": _steps(calls, now - back_s),
            "calls": [_call(call, now, now - back_s) for call in calls],
        }


def call_detail(record: CallRecord, after: int = 0) -> dict[str, object]:
    """Return what was said in a call but for the first `after` pieces, and how its delay went; on its record's clock.

    Hours of a call take a while: pass a copy of the record, and call this off the event loop.
    """
    return {
        **_parties(record),
        "call_sid": record.call_sid,
        "end": record.end,
        "detail": record.detail,
        "started_s": _since_reserved(record, record.started_s),
        "ended_s": _since_reserved(record, record.ended_s),
        "counts": dict(record.counts),
        "text": {
            "first": min(after, len(record.text)),
            "pieces": [(_since_reserved(record, at_s), piece) for at_s, piece in record.text[after:]],
        },
        "latencies_ms": _thinned_ms(list(record.latencies_s)),
    }


def _call(call: ActiveCall, now: float, since_s: float) -> dict[str, object]:
    record, meters = call.session.record, call.observer.meters
    recent = list(islice(reversed(record.latencies_s), RECENT_PIECES))
    return {
        **_parties(record),
        "call_sid": record.call_sid,
        "slot": call.reservation.slot,
        "state": STATES[call.session.state],
        "for_s": round(now - (record.started_s or record.reserved_s), 2),
        "caller_dbfs": round(meters[Speaker.CALLER].level_dbfs(now), 1),
        "moshi_dbfs": round(meters[Speaker.MOSHI].level_dbfs(now), 1),
        "latency_ms": _ms(median(recent)) if recent else None,
        "buffered_ms": _ms(call.session.buffered_s(now)),
        "stages_ms": _stages_ms(record),
        "overruns": record.counts["overruns"],
        "dropped": record.counts["frames_dropped"],
        "text": _said(record, since_s),
    }


def _parties(record: CallRecord) -> dict[str, object]:
    """Return who is at the other end, masked, and who called."""
    outbound = record.direction.startswith(OUTBOUND)
    other = record.called if outbound else record.caller
    return {"number": mask_number(other), "direction": "outbound" if outbound else "inbound"}


def _said(record: CallRecord, since_s: float) -> dict[str, object]:
    """Return the pieces of text since then; `first` is how many came before."""
    late = list(takewhile(lambda piece: piece[0] >= since_s, reversed(record.text)))[::-1]
    pieces = [(_since_reserved(record, at_s), piece) for at_s, piece in late]
    return {"first": len(record.text) - len(pieces), "pieces": pieces}


def _stages_ms(record: CallRecord) -> dict[str, float]:
    """Return how long each stage took for the last frame."""
    spans = record.spans[-1] if record.spans else ()
    return {span.stage: _ms(span.ended_s - span.started_s) for span in spans}


def _steps(calls: list[ActiveCall], since_s: float) -> list[tuple[float, float]]:
    """Return the engine's steps since then, when (`now_s`'s clock) and how long in ms, oldest first.

    A step is one for all calls, so that those of the call that has been on longest are all of them.
    """
    longest = next((call for call in calls if call.session.record.spans), None)
    if longest is None:
        return []
    late = takewhile(lambda span: span.started_s >= since_s, _last_steps(longest.session.record))
    return [(round(span.started_s, 3), _ms(span.ended_s - span.started_s)) for span in late][::-1]


def _last_steps(record: CallRecord) -> Iterator[Span]:
    return (span for spans in reversed(record.spans) for span in spans if span.stage is Stage.STEP)


def _thinned_ms(latencies_s: list[float]) -> list[float]:
    """Return the worst of each of `LATENCY_POINTS` stretches of equal length."""
    count = min(len(latencies_s), LATENCY_POINTS)
    bounds = [number * len(latencies_s) // count for number in range(count + 1)] if count else [0]
    return [_ms(max(latencies_s[start:end])) for start, end in pairwise(bounds)]


def _since_reserved(record: CallRecord, moment_s: float | None) -> float | None:
    return None if moment_s is None else round(moment_s - record.reserved_s, 3)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
