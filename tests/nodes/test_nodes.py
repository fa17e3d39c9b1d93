"""Calls outlive their machines: nodes that die, freeze, are cut off, drain; NATS that goes away and comes back.

Each scenario plays with its own nodes. Calls go on until the test has them end.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from app.simulator.report import Outcome
from tests.app.cluster.nodes import sid
from tests.nodes.cluster import Cluster, cluster
from tests.nodes.cut_line import CutLine
from tests.nodes.nats_servers import needs_nats
from tests.scale import scaled
from tests.waiting import until

pytestmark = [pytest.mark.slow, needs_nats]

CALLS = range(scaled(30, 9))
TALKED = scaled(40, 20)
"""Steps that calls have made before something happens, 3.2 s, and are to make afterwards."""


async def check_none_lost(nodes: Cluster, slots: int = 10) -> None:
    """Have the callers hang up; check that calls ended so, that the moved ones were moved once, that slots are free."""
    reports = await nodes.end_calls()
    assert [report.outcome for report in reports] == [Outcome.ENDED_REMOTELY] * len(reports)
    streams = {report.call_sid: len(report.streams) for report in reports}
    assert streams == {call_sid: 1 + (call_sid in nodes.moved) for call_sid in streams}
    await nodes.until_free(slots)


@contextlib.asynccontextmanager
async def talking(folder: Path, numbers: Sequence[int], servers: int = 1) -> AsyncIterator[Cluster]:
    """Run three nodes with these calls, which have talked for a while; at the end none is lost."""
    async with cluster(folder, servers=servers, MAX_CALLS="10") as nodes:
        nodes.start_calls(numbers)
        await nodes.until_steps(dict.fromkeys(numbers, TALKED))
        yield nodes
        await check_none_lost(nodes)


async def test_calls_go_on_when_a_node_of_three_is_killed_with_all_that_they_knew(tmp_path: Path) -> None:
    async with cluster(tmp_path, MAX_CALLS="20") as nodes:
        nodes.start_calls(CALLS)
        await nodes.until_steps(dict.fromkeys(CALLS, TALKED))
        victim, on = await nodes.busiest()
        victim.signal(signal.SIGKILL)
        await nodes.remove(victim)
        await nodes.until_moved(on, victim)
        await nodes.until_more_steps(CALLS, TALKED)
        await check_none_lost(nodes, 20)

        async def are_forgotten() -> bool:
            return await nodes.logs(*CALLS) == [None] * len(CALLS)

        await until(are_forgotten)
    assert len(on) >= len(CALLS) // 3


async def test_the_calls_of_a_frozen_node_are_redirected_once_and_it_changes_nothing_when_it_wakes_up(
    tmp_path: Path,
) -> None:
    some = range(scaled(12, 6))
    async with talking(tmp_path, some) as nodes:
        frozen, on = await nodes.busiest()
        frozen.signal(signal.SIGSTOP)
        nodes.unlist(frozen)
        await nodes.until_moved(on, frozen)
        frozen.signal(signal.SIGCONT)
        await nodes.until_more_steps(some, TALKED)
        assert await nodes.on_at(frozen) == set()
        assert await nodes.moved_from(frozen) == on
        # The simulator waits 5 s for a frozen peer to close, so the next node asks Twilio, too: nothing is moved twice.
        assert len(on) <= nodes.redirects <= 2 * len(on)


async def test_a_node_that_drains_loses_no_call_and_none_is_left_on_it(tmp_path: Path) -> None:
    some = range(scaled(12, 6))
    async with talking(tmp_path, some) as nodes:
        draining, on = await nodes.busiest()
        other = next(node for node in nodes.nodes.values() if node is not draining)
        assert await other.service.post(f"/api/cluster/{draining.name}/drain", seconds=0)
        await nodes.until_moved(on, draining)
        await nodes.remove(draining)
        await nodes.until_more_steps(some, TALKED)


async def test_with_all_nats_gone_and_back_no_call_notices_new_ones_are_placed_and_nothing_is_moved(
    tmp_path: Path,
) -> None:
    some, later = range(9), range(100, 109)
    async with talking(tmp_path, some) as nodes:
        await nodes.nats.kill(0)
        nodes.start_calls(later)
        await asyncio.sleep(4)  # twice as long as a node may be silent
        await nodes.nats.start(0)
        await nodes.until_ready()
        await nodes.until_steps(dict.fromkeys([*some, *later], TALKED))
        await asyncio.sleep(4)
        assert nodes.redirects == 0


async def test_the_calls_of_a_node_that_is_cut_off_from_nats_go_on_elsewhere_and_it_moves_nothing(
    tmp_path: Path,
) -> None:
    some = range(9)
    async with cluster(tmp_path, nodes=2, MAX_CALLS="10") as nodes, CutLine(nodes.nats.ports[0]).serving() as line:
        cut_off = await nodes.start_node(NATS_URL=line.url)
        await nodes.until_ready()
        nodes.start_calls(some)
        await nodes.until_steps(dict.fromkeys(some, TALKED))
        on = await nodes.on_at(cut_off)
        line.is_cut = True
        nodes.unlist(cut_off)
        await nodes.until_moved(on, cut_off)
        await nodes.until_more_steps(some, TALKED)
        line.is_cut = False
        await nodes.until_ready()
        await asyncio.sleep(4)  # longer than it waits until it believes in silence
        assert nodes.redirects == len(on)
        await check_none_lost(nodes)


async def test_a_nats_server_of_three_is_killed_and_nobody_notices(tmp_path: Path) -> None:
    some = range(9)
    async with talking(tmp_path, some, servers=3) as nodes:
        await nodes.nats.kill(0)
        await nodes.until_ready()
        await nodes.until_more_steps(some, TALKED)
        await asyncio.sleep(4)
        assert nodes.redirects == 0


async def test_a_rolling_restart_of_three_nodes_drops_no_call_and_leaves_none_behind(tmp_path: Path) -> None:
    some, rest_s = range(scaled(24, 9)), scaled(50, 1)
    async with cluster(tmp_path, MAX_CALLS="20") as nodes:
        old = [*nodes.nodes.values()]
        nodes.start_calls(some)
        await nodes.until_steps(dict.fromkeys(some, TALKED))
        for node in old:
            await nodes.start_node()
            await nodes.until_ready()
            await nodes.remove(node)
            await nodes.until_more_steps(some, TALKED)
            await asyncio.sleep(rest_s)
        on = set[str]().union(*[await nodes.on_at(node) for node in nodes.nodes.values()])
        assert on == {sid(number) for number in some}
        assert not set(nodes.nodes) & {node.service.base_url for node in old}
        reports = await nodes.end_calls()
        assert [report.outcome for report in reports] == [Outcome.ENDED_REMOTELY] * len(some)
        await nodes.until_free(20)
