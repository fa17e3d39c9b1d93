import asyncio

import pytest

from app.calls.drain import Drain
from app.calls.end_reason import EndReason
from tests.app.calls.front import ANN, BOB, Front, settle
from tests.processes.pipeline import PATIENCE_S

LONG_S, AT_ONCE_S = 3_600.0, 0.001


class Draining:
    """A drain that runs over a front; `stopped` is set in the end."""

    def __init__(self, front: Front, limit_s: float) -> None:
        self.drain = Drain(front.manager, limit_s, asyncio.Event())
        self.stopped = asyncio.Event()
        self.running = asyncio.create_task(self.drain.run(self.stopped.set))

    async def over(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.running
        assert self.stopped.is_set()


async def test_without_calls_it_stops_at_once() -> None:
    draining = Draining(Front(), LONG_S)
    await settle()
    assert not draining.stopped.is_set(), "nobody has wished it"
    draining.drain.begin()
    await draining.over()


async def test_calls_that_are_on_go_on_and_the_last_one_ends_the_wait() -> None:
    front = Front()
    ann, bob = front.talk(ANN), front.talk(BOB)
    draining = Draining(front, LONG_S)
    draining.drain.begin()
    ann.end(EndReason.CALLER_HUNG_UP)
    await settle()
    assert not draining.stopped.is_set()
    assert (bob.session.record.end, front.manager.draining) == (None, True)
    bob.end(EndReason.CALLER_HUNG_UP)
    await draining.over()


@pytest.mark.parametrize(("limit_s", "end"), [(AT_ONCE_S, EndReason.SHUTDOWN), (0.0, None)])
async def test_when_the_time_is_over_the_calls_are_ended_and_without_time_that_is_left_to_the_stop(
    limit_s: float, end: EndReason | None
) -> None:
    front = Front()
    ann = front.talk(ANN)
    draining = Draining(front, limit_s)
    draining.drain.begin()
    await draining.over()
    assert ann.session.record.end is end


async def test_the_first_wish_counts() -> None:
    drain = Drain(Front().manager, 0.0, asyncio.Event())
    drain.begin(60.0)
    drain.begin(5.0)
    assert drain.limit_s == 60.0
