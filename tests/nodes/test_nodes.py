"""Calls outlive their machines: nodes that die, freeze, are cut off, drain; NATS that goes away and comes back."""

import asyncio
import signal
from pathlib import Path

import pytest

from app.simulator.report import Outcome
from tests.nodes.cluster import Cluster, cluster, forgotten_at
from tests.nodes.nats_servers import needs_nats

pytestmark = [pytest.mark.slow, needs_nats]


async def check_memory(nodes: Cluster, *numbers: int, least_steps: int) -> None:
    for number, conversation in zip(numbers, await nodes.logs(*numbers), strict=True):
        assert conversation is not None, number
        assert conversation.steps >= least_steps, number
        assert forgotten_at(conversation) is None, number


async def test_the_calls_of_a_killed_node_go_on_elsewhere_with_their_memory(tmp_path: Path) -> None:
    calls = range(6)
    async with cluster(tmp_path, MAX_CALLS="10") as nodes:
        talking = [asyncio.create_task(nodes.call(number, 14.0)) for number in calls]
        await asyncio.sleep(4)
        victim = next(iter(nodes.nodes.values()))
        on = await nodes.on_at(victim)
        victim.signal(signal.SIGKILL)
        nodes.unlist(victim)
        await asyncio.sleep(6)
        await check_memory(nodes, *calls, least_steps=100)
        await nodes.remove(victim)
        reports = await asyncio.gather(*talking)
        assert [report.outcome for report in reports] == [Outcome.CALLER_HUNG_UP] * len(calls)
        assert on
        assert {report.call_sid for report in reports if len(report.streams) == 2} == on
        await nodes.until_free(10)
        assert await nodes.logs(*calls) == [None] * len(calls)
