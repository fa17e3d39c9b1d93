import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.processes.ring import PATIENCE_S, Ring, all_gone, frame, running
from tests.workers.config import LOOPBACK
from workers.messages import Close, Epoch, Open, PipelineMessage, Slot, Stage
from workers.pipeline import WorkerName
from workers.supervisor import Supervisor, WorkerRefused

ROOT = Path(__file__).parent.parent.parent
KINDS: list[WorkerName] = [(Stage.ENCODE, 1), (Stage.STEP, 0), (Stage.DECODE, 1)]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ring() -> AsyncIterator[Ring]:
    async with running() as ring:
        yield ring


async def test_frames_go_round_the_ring_and_come_back_in_order(ring: Ring) -> None:
    for slot in range(2):
        assert await ring.go_round(slot, epoch=1) == [(0, 0.0), (1, pytest.approx(0.1)), (2, pytest.approx(0.2))]


async def test_open_and_close_come_back_too(ring: Ring) -> None:
    sent: list[PipelineMessage] = [Open(Slot(1), Epoch(2)), Close(Slot(1), Epoch(2))]
    for message in sent:
        ring.supervisor.send(message)
    came: list[PipelineMessage] = []
    while sent[-1] not in came:
        came.append(await ring.next_message())
    assert [message for message in came if message.epoch == 2] == sent


async def test_every_frame_says_how_long_each_stage_took(ring: Ring) -> None:
    ring.supervisor.send(Open(Slot(0), Epoch(3)))
    ring.supervisor.send(frame(0, 3, 0))
    spans = (await ring.next_frame()).spans
    assert [span.stage for span in spans] == [Stage.ENCODE, Stage.STEP, Stage.DECODE]
    moments = [moment for span in spans for moment in (span.started_s, span.ended_s)]
    assert moments == sorted(moments)


async def test_every_worker_is_a_process_of_its_own(ring: Ring) -> None:
    pids = ring.supervisor.process_ids
    assert set(pids) == {(Stage.STEP, 0)} | {(stage, i) for stage in (Stage.ENCODE, Stage.DECODE) for i in range(2)}
    assert len(set(pids.values()) | {os.getpid()}) == 6


@pytest.mark.parametrize("killed", KINDS, ids=lambda name: name[0])
async def test_a_worker_that_is_killed_is_reported_and_started_again_and_the_ring_works_as_before(
    ring: Ring, killed: WorkerName
) -> None:
    before = dict(ring.supervisor.process_ids)
    os.kill(before[killed], signal.SIGKILL)
    assert await ring.next_lost() == killed
    assert not ring.supervisor.ready
    await ring.until_ready()
    for slot in range(2):
        assert [seq for seq, _ in await ring.go_round(slot, epoch=10 + KINDS.index(killed))] == [0, 1, 2]
    after = ring.supervisor.process_ids
    assert {name for name in after if after[name] != before[name]} == {killed}, "the others were not touched"
    assert ring.lost.empty()


async def test_the_calls_of_the_other_codecs_do_not_notice(ring: Ring) -> None:
    ring.supervisor.send(Open(Slot(0), Epoch(20)))
    os.kill(ring.supervisor.process_ids[(Stage.ENCODE, 1)], signal.SIGKILL)
    assert await ring.next_lost() == (Stage.ENCODE, 1)
    ring.supervisor.send(frame(1, 20, 0))  # lost: its encoder is down
    ring.supervisor.send(frame(0, 20, 5))
    back = await ring.next_frame()
    assert back.pcm is not None
    assert (back.slot, back.epoch, float(back.pcm[0])) == (0, 20, 0.5)
    await ring.until_ready()


async def test_an_orderly_stop_leaves_no_process() -> None:
    async with running(codecs=1) as ring:
        pids = list(ring.supervisor.process_ids.values())
        assert len(pids) == 3
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


async def test_a_stop_in_the_middle_of_the_start_leaves_no_process() -> None:
    ring = Ring(LOOPBACK, codecs=1)
    supervising = asyncio.create_task(ring.supervisor.run())
    async with asyncio.timeout(PATIENCE_S):
        while not ring.supervisor.process_ids:  # noqa: ASYNC110 - a turn of the loop, not a wait
            await asyncio.sleep(0)
    pids = list(ring.supervisor.process_ids.values())
    supervising.cancel()
    await asyncio.wait({supervising})
    await all_gone(pids)


async def test_a_stop_before_anything_has_started_is_one_too() -> None:
    supervising = asyncio.create_task(Ring(LOOPBACK, codecs=1).supervisor.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    supervising.cancel()
    await asyncio.wait({supervising})
    assert supervising.cancelled()


async def test_a_worker_that_cannot_run_says_why(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    config = replace(LOOPBACK, engine="mlx", codec="mimi", checkpoint=str(missing))
    supervisor = Supervisor(config, 1, lambda _: None, lambda _: None, lambda _: None)
    with pytest.raises(WorkerRefused, match=f"MOSHI_CHECKPOINT={missing}"):
        async with asyncio.timeout(PATIENCE_S):
            await supervisor.run()
    assert supervisor.process_ids == {}


ORPHANS = """
import asyncio
from tests.processes.ring import running

async def main():
    async with running(codecs=1) as ring:
        print(*ring.supervisor.process_ids.values(), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_parent_leaves_no_orphan() -> None:
    program = (sys.executable, "-c", ORPHANS)
    parent = await asyncio.create_subprocess_exec(*program, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
        assert len(pids) == 3
        parent.kill()
        await parent.communicate()
    await all_gone(pids)
