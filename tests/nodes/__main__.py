"""Prints what nodes cost, and how fast calls move: `python -m tests.nodes`. One NATS server, no load beside.

Three nodes in one process: how long a webhook takes, what publishing 50 token logs takes of the processor, how long a
log takes to be read back. Three nodes as processes with 30 calls, one killed: how long its calls take from Twilio's
request until they hear something again, and what the callers of the others notice.
"""

import asyncio
import signal
import tempfile
import time
from pathlib import Path
from statistics import quantiles

import numpy as np

from app.calls.conversation import STEP_BYTES
from app.simulator.report import CallReport
from tests.app.cluster.nodes import sid
from tests.nodes.cluster import cluster
from tests.nodes.light import LightCluster, light_nodes
from tests.nodes.nats_servers import nats_servers
from workers.messages import FRAME_S

CALLS = 50
SECONDS = 20.0
TALKING = range(30)


async def webhooks(nodes: LightCluster) -> str:
    took_ms = []
    for number in range(CALLS):
        started_s = time.monotonic()
        verb = await nodes.nodes[number % 3].answer(sid(number))
        took_ms.append((time.monotonic() - started_s) * 1000)
        nodes.of(verb).begin(verb, sid(number))
    return f"voice webhook, one after another: p50 {quantiles(took_ms, n=2)[0]:.1f} ms, max {max(took_ms):.1f} ms"


async def publishing(nodes: LightCluster) -> str:
    """Add a step to each call every frame's time, with and without its log being published, twice in turns."""
    calls = [call for node in nodes.nodes for call in node.manager.calls]
    cpu_s = [0.0, 0.0]
    for is_published in (False, True, False, True):
        for node in nodes.nodes:
            for call in node.manager.calls:
                if is_published:
                    node.node.on_call(call)
                else:
                    node.node.logs.close(call.session.record.call_sid)
        started_s, before = time.monotonic(), time.process_time()
        while time.monotonic() - started_s < SECONDS:
            for call in calls:
                call.session.conversation.add_step(bytes(STEP_BYTES))
            await asyncio.sleep(FRAME_S)
        cpu_s[is_published] += (time.process_time() - before) / SECONDS / 2
    share = (cpu_s[1] - cpu_s[0]) / CALLS * 100
    return (
        f"publishing: {share:.3f} % of a core a call (nodes alone {cpu_s[0]:.3f} s/s, with {CALLS} logs {cpu_s[1]:.3f})"
    )


async def reading(nodes: LightCluster, steps: int) -> str:
    """Read the log of a call that has made so many steps, each published by itself."""
    node = next(node for node in nodes.nodes if node.manager.calls)
    call, logs = node.manager.calls[0], node.node.logs
    call_sid = call.session.record.call_sid
    node.node.on_call(call)
    while call.session.conversation.steps < steps:
        call.session.conversation.add_step(bytes(STEP_BYTES))
        await logs.publish_pending(node.node.member.next_epoch)
    await asyncio.sleep(1)
    started_s = time.monotonic()
    _, conversation = await logs.read(call_sid)
    took_s = time.monotonic() - started_s
    return f"reading back {steps} steps: {took_s:.2f} s ({conversation.steps if conversation else 0} found)"


async def moving(folder: Path) -> str:
    """Kill a node of three."""
    async with cluster(folder, MAX_CALLS="20") as nodes:
        nodes.start_calls(TALKING)
        await nodes.until_logged(dict.fromkeys(TALKING, 1))
        await asyncio.sleep(SECONDS)
        victim, on = await nodes.busiest()
        victim.signal(signal.SIGKILL)
        await nodes.remove(victim)
        await asyncio.sleep(SECONDS)
        reports = await nodes.end_calls()
    moved = [report for report in reports if report.call_sid in on]
    took_s = [_heard_again_s(report) for report in moved if len(report.streams) == 2]
    before, after = (
        np.percentile([gap for one in reports if one.call_sid not in on for gap in _gaps_ms(one, since_s, until_s)], 99)
        for since_s, until_s in ((-SECONDS, 0.0), (0.0, SECONDS / 2))
    )
    return (
        f"node killed: {len(took_s)} of {len(on)} calls moved, heard again after p50 {np.median(took_s):.2f} s, max "
        f"{max(took_s):.2f} s; the others' packets come every p99 {before:.0f} ms before, {after:.0f} after"
    )


def _heard_again_s(report: CallReport) -> float:
    """Return the time from Twilio's request, as the first stream was closed, to the first packet of the second one."""
    first, second = report.streams
    return next(one.at_s for one in report.buffer_levels if one.at_s > second.opened_s) - first.closed_s


def _gaps_ms(report: CallReport, since_s: float, until_s: float) -> list[float]:
    """Return the times between packets, of those that came then, in seconds since the kill."""
    killed_s = report.ended_s - SECONDS
    came_s = [one.at_s for one in report.buffer_levels if since_s <= one.at_s - killed_s < until_s]
    return [1000 * gap for gap in np.diff(came_s)]


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with nats_servers(Path(folder)) as nats, light_nodes(nats.url, max_calls=20) as nodes:
            print(await webhooks(nodes))
            print(await publishing(nodes))
            for steps in (3_000, 45_000):
                print(await reading(nodes, steps))
        print(await moving(Path(folder)))


if __name__ == "__main__":
    asyncio.run(main())
