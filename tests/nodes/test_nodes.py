"""Calls outlive their machines: nodes that die, freeze, are cut off, drain; NATS that goes away and comes back."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.simulator.report import CallReport, Outcome
from tests.nodes.cluster import Cluster, cluster, forgotten_at
from tests.nodes.nats_servers import needs_nats

pytestmark = [pytest.mark.slow, needs_nats]

CALLS = range(30)


async def check_memory(nodes: Cluster, least_steps: int, numbers: Sequence[int] = CALLS) -> None:
    """Check that each call that is on remembers all from its first step on, and has made so many."""
    for number, conversation in zip(numbers, await nodes.logs(*numbers), strict=True):
        assert conversation is not None, number
        assert conversation.steps >= least_steps, number
        assert forgotten_at(conversation) is None, number


def check_none_lost(reports: Sequence[CallReport], moved: set[str]) -> None:
    """Check that every call ended as its caller wished, and that those which were moved, and no other, were so once."""
    assert [report.outcome for report in reports] == [Outcome.CALLER_HUNG_UP] * len(reports)
    assert {report.call_sid: len(report.streams) for report in reports} == {
        report.call_sid: 1 + (report.call_sid in moved) for report in reports
    }


async def test_30_calls_go_on_when_a_node_of_three_is_killed_with_all_that_they_knew(tmp_path: Path) -> None:
    async with cluster(tmp_path, MAX_CALLS="20") as nodes:
        talking = [asyncio.create_task(nodes.call(number, 16.0)) for number in CALLS]
        await asyncio.sleep(5)
        victim, on = await nodes.busiest()
        victim.signal(signal.SIGKILL)
        nodes.unlist(victim)
        await asyncio.sleep(7)
        await check_memory(nodes, least_steps=110)
        await nodes.remove(victim)
        check_none_lost(await asyncio.gather(*talking), on)
        await nodes.until_free(20)
        assert await nodes.logs(*CALLS) == [None] * len(CALLS)
    assert len(on) >= 5
