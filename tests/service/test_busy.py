"""Two slots, five callers, in each of the three ways to be busy: the real service and workers, simulated calls.

The simulator is the telephone network and its REST API in one: the service redirects calls through `Orders`.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from app.calls.record import CallRecord
from app.server.service import Service
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.progress import Progress, StreamOpened, Waiting
from app.simulator.remote import Redirect, Remote
from app.simulator.report import CallReport, Outcome
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, PUBLIC, TOKEN
from tests.service.served import served

FIRST = ["CA1", "CA2"]
LATER = ["CA3", "CA4", "CA5"]


@dataclass
class Orders:
    """What the service asks of REST: to redirect a call."""

    remotes: defaultdict[str, Remote] = field(default_factory=lambda: defaultdict(Remote))

    async def redirect(self, call_sid: str, url: str) -> None:
        self.remotes[call_sid].send(Redirect(url))


@dataclass
class Town:
    """A running service with two slots, and those who call it."""

    service: Service
    port: int
    orders: Orders
    happened: asyncio.Queue[tuple[str, Progress]] = field(default_factory=asyncio.Queue)

    async def call(self, call_sid: str, seconds: float, patience_s: float = 600.0) -> CallReport:
        options = CallOptions(
            PUBLIC,
            TOKEN,
            ACCOUNT,
            duration_s=seconds,
            call_sid=call_sid,
            dial_url=f"http://127.0.0.1:{self.port}",
            status_path="/twilio/status",
            patience_s=patience_s,
        )
        return await simulate(
            options, lambda progress: self.happened.put_nowait((call_sid, progress)), self.orders.remotes[call_sid]
        )

    async def until(self, call_sid: str, wanted: type[Progress]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                who, progress = await self.happened.get()
                if who == call_sid and isinstance(progress, wanted):
                    return

    def records(self) -> list[CallRecord]:
        return sorted(self.service.manager.records(), key=lambda record: record.reserved_s)

    @property
    def lost_slots(self) -> int:
        return 2 - self.service.manager.free_slots


@contextlib.asynccontextmanager
async def town(mode: str, has_dialler: bool = True) -> AsyncIterator[Town]:
    orders = Orders()
    async with served(max_calls=2, when_busy=mode, redirector=orders if has_dialler else None) as running:
        yield Town(running.service, running.phone.port, orders)


def most_at_once(records: Sequence[CallRecord], begins: Callable[[CallRecord], float | None]) -> int:
    """Return how many calls were on at the busiest moment, each from when it begins to its end."""
    on = [(begin, record.ended_s) for record in records if (begin := begins(record)) is not None]
    return max(sum(begin <= moment < (end or moment + 1) for begin, end in on) for moment, _ in on)


@pytest.mark.parametrize(("mode", "outcome"), [("reject", Outcome.REJECTED), ("say", Outcome.SERVER_HUNG_UP)])
async def test_of_five_callers_two_talk_and_three_are_turned_down(mode: str, outcome: Outcome) -> None:
    async with town(mode) as here:
        talking = [asyncio.create_task(here.call(call_sid, 2.0)) for call_sid in FIRST]
        for call_sid in FIRST:
            async with asyncio.timeout(PATIENCE_S):
                while call_sid not in {record.call_sid for record in here.records() if record.started_s}:
                    await here.happened.get()
        turned_down = await asyncio.gather(*(here.call(call_sid, 2.0) for call_sid in LATER))
        talked = await asyncio.gather(*talking)
        records, lost = here.records(), here.lost_slots
    assert [report.outcome for report in talked] == [Outcome.CALLER_HUNG_UP] * 2
    assert [(report.outcome, report.streams) for report in turned_down] == [(outcome, ())] * 3
    assert {record.call_sid for record in records} == set(FIRST)
    assert (most_at_once(records, lambda record: record.started_s), lost) == (2, 0)


@pytest.mark.parametrize("has_dialler", [True, False], ids=["redirected", "told to leave"])
async def test_of_five_callers_two_talk_at_a_time_and_each_slot_goes_to_the_next_in_line(has_dialler: bool) -> None:
    async with town("queue", has_dialler) as here:
        calls = []
        for call_sid, seconds in zip(FIRST, (2.0, 3.0), strict=True):
            calls.append(asyncio.create_task(here.call(call_sid, seconds)))
            await here.until(call_sid, StreamOpened)
        for call_sid in LATER:
            calls.append(asyncio.create_task(here.call(call_sid, 1.0)))
            await here.until(call_sid, Waiting)
        reports = await asyncio.gather(*calls)
        records, lost, in_line = here.records(), here.lost_slots, len(here.service.call_queue)
    assert [report.outcome for report in reports] == [Outcome.CALLER_HUNG_UP] * 5
    assert [len(report.streams) for report in reports] == [1] * 5
    assert [record.call_sid for record in records] == FIRST + LATER
    assert most_at_once(records, lambda record: record.started_s) == 2
    assert most_at_once(records, lambda record: record.reserved_s) == 2
    assert (lost, in_line) == (0, 0)


async def test_a_caller_who_gives_up_waiting_is_passed_over() -> None:
    async with town("queue") as here:
        talking = [asyncio.create_task(here.call(call_sid, 3.0)) for call_sid in FIRST]
        for _ in FIRST:
            async with asyncio.timeout(PATIENCE_S):
                while not isinstance((await here.happened.get())[1], StreamOpened):
                    pass
        waiting = asyncio.create_task(here.call("CA3", 1.0, patience_s=0.2))
        await here.until("CA3", Waiting)
        next_in_line = asyncio.create_task(here.call("CA4", 1.0))
        await asyncio.gather(*talking)
        gave_up, report = await waiting, await next_in_line
        lost = here.lost_slots
    assert (gave_up.sentence, gave_up.streams) == ("the caller gave up waiting", ())
    assert (report.outcome, len(report.streams), lost) == (Outcome.CALLER_HUNG_UP, 1, 0)
