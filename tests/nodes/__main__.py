"""Prints what nodes cost: `python -m tests.nodes`. Three nodes in one process, one NATS server, no load beside.

How long a webhook takes, what publishing 50 token logs takes of the processor, how long a log takes to be read back.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from app.calls.conversation import STEP_BYTES
from tests.nodes.light import LightCluster, light_nodes, sid
from tests.nodes.nats_servers import nats_servers
from workers.messages import FRAME_S

CALLS = 50
SECONDS = 20.0


async def webhooks(nodes: LightCluster) -> str:
    took_ms = []
    for number in range(CALLS):
        started_s = time.monotonic()
        verb = await nodes.nodes[number % 3].answer(sid(number))
        took_ms.append((time.monotonic() - started_s) * 1000)
        nodes.of(verb).begin(verb, sid(number))
    return f"voice webhook, one after another: p50 {quantiles(took_ms, n=2)[0]:.1f} ms, max {max(took_ms):.1f} ms"


async def publishing(nodes: LightCluster) -> str:
    """Add a step to each call every frame's time, with and without its log being published."""
    calls = [call for node in nodes.nodes for call in node.manager.calls]
    cpu_s = []
    for is_published in (False, True):
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
        cpu_s.append((time.process_time() - before) / SECONDS)
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


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with nats_servers(Path(folder)) as nats, light_nodes(nats.url, max_calls=20) as nodes:
            print(await webhooks(nodes))
            print(await publishing(nodes))
            for steps in (3_000, 45_000):
                print(await reading(nodes, steps))


if __name__ == "__main__":
    asyncio.run(main())
