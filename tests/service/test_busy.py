"""Two slots, six callers and a queue: the real service and workers, simulated calls.

The simulator is the telephone network and its REST API in one: the service redirects calls through `Redirects`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from app.calls.record import CallRecord
from app.simulator.call import simulate
from app.simulator.progress import Progress, StreamOpened, Waiting
from app.simulator.remote import EndCall, Follow, Redirect, Remote
from app.simulator.report import CallReport, Outcome
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import Phone
from tests.service.served import served

FIRST = ["CA1", "CA2"]
LATER = ["CA3", "CA4", "CA5"]


@dataclass
class Redirects:
    """What the service asks of Twilio's REST API."""

    remotes: defaultdict[str, Remote] = field(default_factory=lambda: defaultdict(Remote))

    async def redirect(self, call_sid: str, url: str) -> None:
        self.remotes[call_sid].send(Redirect(url))

    async def follow(self, call_sid: str, twiml: str) -> None:
        self.remotes[call_sid].send(Follow(twiml))


@dataclass
class Callers:
    phone: Phone
    redirects: Redirects
    happened: asyncio.Queue[tuple[str, Progress]] = field(default_factory=asyncio.Queue)

    async def call(self, call_sid: str, seconds: float, patience_s: float = 600.0) -> CallReport:
        options = self.phone.options(
            duration_s=seconds, call_sid=call_sid, status_path="/twilio/status", patience_s=patience_s
        )
        return await simulate(
            options, lambda progress: self.happened.put_nowait((call_sid, progress)), self.redirects.remotes[call_sid]
        )

    async def until(self, call_sid: str, wanted: type[Progress]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                who, progress = await self.happened.get()
                if who == call_sid and isinstance(progress, wanted):
                    return


def most_at_once(records: Sequence[CallRecord], begins: Callable[[CallRecord], float | None]) -> int:
    """Return how many calls were on at the busiest moment, each from when it begins to its end."""
    on = [(begin, record.ended_s) for record in records if (begin := begins(record)) is not None]
    return max(sum(begin <= moment < (end or moment + 1) for begin, end in on) for moment, _ in on)


@pytest.mark.parametrize(
    "redirected", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["redirected", "told to leave"]
)
async def test_two_talk_at_a_time_and_each_slot_goes_to_the_next_in_the_queue(redirected: bool) -> None:
    """Who gives up waiting is passed over."""
    redirects = Redirects()
    async with served(max_calls=2, when_busy="queue", rest=redirects if redirected else None) as running:
        callers = Callers(running.phone, redirects)
        calls = []
        for call_sid in FIRST:
            calls.append(asyncio.create_task(callers.call(call_sid, PATIENCE_S)))
            await callers.until(call_sid, StreamOpened)
        impatient = asyncio.create_task(callers.call("CA0", 1.0, patience_s=0.2))
        await callers.until("CA0", Waiting)
        for call_sid in LATER:
            calls.append(asyncio.create_task(callers.call(call_sid, 1.0)))
            await callers.until(call_sid, Waiting)
        gave_up = await impatient
        for first, later in zip(FIRST, LATER, strict=False):
            redirects.remotes[first].send(EndCall())
            await callers.until(later, StreamOpened)
        reports = await asyncio.gather(*calls)
        manager = running.service.manager
        records = sorted(manager.records(), key=lambda record: record.reserved_s)
        left = (2 - manager.free_slots, len(running.service.call_queue))
    assert (gave_up.sentence, gave_up.streams) == ("the caller gave up waiting", ())
    assert [report.outcome for report in reports] == [Outcome.ENDED_REMOTELY] * 2 + [Outcome.CALLER_HUNG_UP] * 3
    assert [len(report.streams) for report in reports] == [1] * 5
    assert [record.call_sid for record in records] == FIRST + LATER
    assert most_at_once(records, lambda record: record.started_s) == 2
    assert most_at_once(records, lambda record: record.reserved_s) == 2
    assert left == (0, 0)
