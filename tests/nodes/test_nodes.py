"""Calls outlive their machines: nodes that die, freeze, are cut off, drain; NATS that goes away and comes back.

Each scenario plays with its own nodes. Calls go on until the test has them end.
"""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.simulator.report import CallReport, Outcome
from tests.nodes.cluster import cluster
from tests.nodes.nats_servers import needs_nats

pytestmark = [pytest.mark.slow, needs_nats]

CALLS = range(30)
TALKED = 40
"""Steps that calls have made before something happens, 3.2 s, and are to make afterwards."""


def check_none_lost(reports: Sequence[CallReport], moved: set[str]) -> None:
    """Check that every call ended as it was told, and that those which were moved, and no other, were so once."""
    assert [report.outcome for report in reports] == [Outcome.ENDED_REMOTELY] * len(reports)
    streams = {report.call_sid: len(report.streams) for report in reports}
    assert streams == {call_sid: 1 + (call_sid in moved) for call_sid in streams}


async def test_30_calls_go_on_when_a_node_of_three_is_killed_with_all_that_they_knew(tmp_path: Path) -> None:
    async with cluster(tmp_path, MAX_CALLS="20") as nodes:
        calls = nodes.start_calls(CALLS)
        await nodes.until_steps(CALLS, TALKED)
        victim, on = await nodes.busiest()
        victim.signal(signal.SIGKILL)
        await nodes.remove(victim)
        await nodes.until_moved(on, victim)
        before = max(log.steps for log in await nodes.logs(*CALLS) if log)
        await nodes.until_steps(CALLS, before + TALKED)
        check_none_lost(await nodes.end_calls(calls), on)
        await nodes.until_free(20)
        assert await nodes.logs(*CALLS) == [None] * len(CALLS)
    assert len(on) >= 10


async def test_the_calls_of_a_frozen_node_are_redirected_once_and_it_changes_nothing_when_it_wakes_up(
    tmp_path: Path,
) -> None:
    some = range(12)
    async with cluster(tmp_path, MAX_CALLS="10") as nodes:
        calls = nodes.start_calls(some)
        await nodes.until_steps(some, TALKED)
        frozen, on = await nodes.busiest()
        frozen.signal(signal.SIGSTOP)
        nodes.unlist(frozen)
        await nodes.until_moved(on, frozen)
        redirects = [path for path, form in nodes.rest.asked if path == "POST Calls"]
        frozen.signal(signal.SIGCONT)
        before = max(log.steps for log in await nodes.logs(*some) if log)
        await nodes.until_steps(some, before + TALKED)
        assert await nodes.on_at(frozen) == set()
        assert await nodes.moved_from(frozen) == on
        check_none_lost(await nodes.end_calls(calls), on)
        assert len([path for path, form in nodes.rest.asked if "Url" in dict(form)]) == len(on) == len(redirects)
        await nodes.until_free(10)


async def test_a_node_that_drains_loses_no_call_and_none_is_left_on_it(tmp_path: Path) -> None:
    some = range(12)
    async with cluster(tmp_path, MAX_CALLS="10") as nodes:
        calls = nodes.start_calls(some)
        await nodes.until_steps(some, TALKED)
        draining, on = await nodes.busiest()
        other = next(node for node in nodes.nodes.values() if node is not draining)
        assert await other.service.post(f"/api/cluster/{draining.name}/drain", seconds=0)
        await nodes.until_moved(on, draining)
        await nodes.remove(draining)
        before = max(log.steps for log in await nodes.logs(*some) if log)
        await nodes.until_steps(some, before + TALKED)
        check_none_lost(await nodes.end_calls(calls), on)
        await nodes.until_free(10)


async def test_with_all_nats_gone_and_back_no_call_notices_new_ones_are_placed_and_nothing_is_moved(
    tmp_path: Path,
) -> None:
    some, later = range(9), range(100, 109)
    async with cluster(tmp_path, MAX_CALLS="10") as nodes:
        calls = nodes.start_calls(some)
        await nodes.until_steps(some, TALKED)
        await nodes.nats.kill(0)
        calls += nodes.start_calls(later)
        await asyncio.sleep(4)  # twice as long as a node may be silent
        await nodes.nats.start(0)
        await nodes.until_ready()
        await nodes.until_steps([*some, *later], TALKED)
        await asyncio.sleep(4)
        assert [path for path, form in nodes.rest.asked if "Url" in dict(form)] == []
        check_none_lost(await nodes.end_calls(calls), set())
        await nodes.until_free(10)
