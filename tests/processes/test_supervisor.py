import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import numpy as np
import psutil
import pytest
import pytest_asyncio

from app.config import FIELDS
from tests.processes.pipeline import PATIENCE_S, SupervisedPipeline, all_gone, frame, running, supervising
from tests.workers.config import LOOPBACK
from workers.liveness import Limits
from workers.logging import LineFormat
from workers.messages import (
    FRAME_SAMPLES,
    Close,
    Epoch,
    Open,
    PipelineMessage,
    PreparePrompt,
    PromptRefused,
    Slot,
    Stage,
)
from workers.process import worker_environment
from workers.supervisor import Supervisor, WorkerRefused, WorkerState

HASTY = Limits(busy_s=2.0)
"""These tests wait for hangs; a busy machine may take a second for a frame."""
SECRETS = [name.lower() for name, field in FIELDS.items() if not field.repr]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pipeline() -> AsyncIterator[SupervisedPipeline]:
    with pytest.MonkeyPatch.context() as environment:
        for name in SECRETS:
            environment.setenv(name.upper(), "a secret")
            environment.setenv(f"MOSHI_BRIDGE_{name.upper()}", "a secret")
        async with running(limits=HASTY) as pipeline:
            yield pipeline


def state(pipeline: SupervisedPipeline, stage: Stage) -> WorkerState:
    return next(worker for worker in pipeline.supervisor.workers if worker.name is stage)


async def test_frames_come_back_in_order_and_so_do_open_and_close(pipeline: SupervisedPipeline) -> None:
    for slot in range(2):
        assert await pipeline.pass_frames(slot, 1) == [(0, 0.0), (1, pytest.approx(0.1)), (2, pytest.approx(0.2))]
    sent: list[PipelineMessage] = [Open(Slot(1), Epoch(2)), Close(Slot(1), Epoch(2))]
    for message in sent:
        pipeline.supervisor.send(message)
    came: list[PipelineMessage] = []
    while sent[-1] not in came:
        came.append(await pipeline.next_message())
    assert [message for message in came if message.epoch == 2] == sent


@pytest.mark.parametrize("frames", [0, 1, 200])
async def test_a_prompt_is_answered_apart_from_the_calls(pipeline: SupervisedPipeline, frames: int) -> None:
    voice = np.zeros((frames, FRAME_SAMPLES), np.float32) if frames else None
    pipeline.supervisor.send(PreparePrompt("ada", "Be kind.", pcm=voice))
    answer = await pipeline.next_prompt()
    assert answer == PromptRefused("ada", "this checkpoint takes no prompt and no voice")


async def test_every_frame_says_how_long_each_stage_took(pipeline: SupervisedPipeline) -> None:
    pipeline.supervisor.send(Open(Slot(0), Epoch(3)))
    pipeline.supervisor.send(frame(0, 3, 0))
    spans = (await pipeline.next_frame()).spans
    assert [span.stage for span in spans] == [Stage.ENCODE, Stage.STEP, Stage.DECODE]
    moments = [moment for span in spans for moment in (span.started_s, span.ended_s)]
    assert moments == sorted(moments)


async def test_every_stage_is_a_process_without_a_secret_in_its_environment(pipeline: SupervisedPipeline) -> None:
    pids = pipeline.supervisor.process_ids
    assert set(pids) == set(Stage)
    assert len({*pids.values(), os.getpid()}) == 4
    for pid in pids.values():
        inherited = psutil.Process(pid).environ()
        assert "PATH" in inherited
        assert "a secret" not in inherited.values()


@pytest.mark.parametrize("stage", Stage)
async def test_a_variable_that_is_not_allowed_is_not_inherited(stage: Stage) -> None:
    useful = {"PATH": "/bin", "HOME": "/root", "https_proxy": "http://proxy", "CUDA_VISIBLE_DEVICES": "0"}
    inherited = worker_environment(stage, {**useful, "AWS_SECRET_ACCESS_KEY": "a secret", "HF_TOKEN": "of the hub"})
    assert inherited.items() >= useful.items()
    assert "a secret" not in inherited.values()
    assert ("HF_TOKEN" in inherited) == (stage is Stage.STEP), "which downloads"


def ended_with(stage: Stage, before: dict[Stage, int]) -> set[int]:
    """Return the processes that end when that of a stage is lost: the engine outlives encoder and decoder."""
    return {pid for one, pid in before.items() if stage is Stage.STEP or one is not Stage.STEP}


STEP_OR_SLOW = [Stage.STEP, *(pytest.param(one, marks=pytest.mark.slow) for one in (Stage.ENCODE, Stage.DECODE))]


@pytest.mark.parametrize("stage", STEP_OR_SLOW)
async def test_when_a_worker_is_killed_the_codec_is_started_again_and_with_the_engine_all(
    pipeline: SupervisedPipeline, stage: Stage
) -> None:
    before, losses = pipeline.supervisor.process_ids, state(pipeline, stage).losses
    os.kill(before[stage], signal.SIGKILL)
    assert await pipeline.next_lost() == f"{stage}: killed by SIGKILL"
    assert not pipeline.supervisor.ready
    closed = Close(Slot(1), Epoch(1))
    pipeline.supervisor.send(closed)
    await pipeline.until_ready()
    while await pipeline.next_message() != closed:  # so that no worker keeps a call that ended meanwhile
        pass
    for slot in range(2):
        assert [seq for seq, _ in await pipeline.pass_frames(slot, 10 + list(Stage).index(stage))] == [0, 1, 2]
    ended = ended_with(stage, before)
    assert set(pipeline.supervisor.process_ids.values()) & set(before.values()) == set(before.values()) - ended
    await all_gone([*ended])
    assert state(pipeline, stage).losses == losses + 1
    assert pipeline.lost.empty()


@pytest.mark.parametrize("second", [pytest.param(Stage.STEP, marks=pytest.mark.slow), Stage.ENCODE])
async def test_after_a_second_loss_during_the_restart_all_are_started_again(
    pipeline: SupervisedPipeline, second: Stage
) -> None:
    before = pipeline.supervisor.process_ids
    os.kill(before[Stage.DECODE], signal.SIGKILL)
    await pipeline.next_lost()
    async with asyncio.timeout(PATIENCE_S):
        while pipeline.supervisor.process_ids.get(Stage.ENCODE) in (None, before[Stage.ENCODE]):  # noqa: ASYNC110
            await asyncio.sleep(0)
    again = pipeline.supervisor.process_ids
    assert again[Stage.STEP] == before[Stage.STEP]
    os.kill(again[second], signal.SIGKILL)
    assert await pipeline.next_lost() == f"{second}: killed by SIGKILL"
    await pipeline.until_ready()
    assert [seq for seq, _ in await pipeline.pass_frames(0, 40 + list(Stage).index(second))] == [0, 1, 2]
    former = {*before.values(), *again.values()}
    assert not set(pipeline.supervisor.process_ids.values()) & former
    await all_gone([*former])


@pytest.mark.slow
async def test_an_engine_without_a_link_for_another_codec_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.pipeline.SPARES", 1)
    async with running() as pipeline:
        engines = []
        for epoch in range(3):
            assert [seq for seq, _ in await pipeline.pass_frames(0, epoch)] == [0, 1, 2]
            engines.append(pipeline.supervisor.process_ids[Stage.STEP])
            os.kill(pipeline.supervisor.process_ids[Stage.ENCODE], signal.SIGKILL)
            await pipeline.next_lost()
            await pipeline.until_ready()
    assert engines[0] == engines[1] != engines[2]


@pytest.mark.parametrize("stage", STEP_OR_SLOW)
@pytest.mark.parametrize("busy", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_when_a_worker_hangs_the_pipeline_is_started_again(
    pipeline: SupervisedPipeline, stage: Stage, busy: bool
) -> None:
    before, hangs = pipeline.supervisor.process_ids, state(pipeline, stage).hangs
    epoch = 30 + 2 * list(Stage).index(stage) + busy
    os.kill(before[stage], signal.SIGSTOP)
    if busy:
        pipeline.supervisor.send(Open(Slot(0), Epoch(epoch)))
        pipeline.supervisor.send(frame(0, epoch, 0))
    lost = await pipeline.next_lost()
    assert lost.startswith(f"{stage}: hangs, no {'frame' if busy else 'answer'} for")
    await pipeline.until_ready()
    assert [seq for seq, _ in await pipeline.pass_frames(1, epoch)] == [0, 1, 2]
    await all_gone([*ended_with(stage, before)])
    assert state(pipeline, stage).hangs == hangs + 1


async def started(pipeline: SupervisedPipeline, stage: Stage) -> int:
    """Return the process of a stage as soon as there is one."""
    async with asyncio.timeout(PATIENCE_S):
        while stage not in pipeline.supervisor.process_ids:  # noqa: ASYNC110 - a turn of the loop, not a wait
            await asyncio.sleep(0)
    return pipeline.supervisor.process_ids[stage]


@pytest.mark.slow
async def test_a_loss_is_reported_before_the_processes_have_ended() -> None:
    found: asyncio.Queue[set[str]] = asyncio.Queue()
    pids: list[int] = []
    supervisor = Supervisor(
        LOOPBACK, lambda _: None, lambda _: found.put_nowait({psutil.Process(pid).status() for pid in pids}), print
    )
    async with supervising(supervisor), asyncio.timeout(PATIENCE_S):
        pids += supervisor.process_ids.values()
        os.kill(pids[0], signal.SIGSTOP)
        assert psutil.STATUS_STOPPED in await found.get()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [Stage.STEP, Stage.DECODE])
async def test_a_worker_that_hangs_while_it_starts_is_started_again(stage: Stage) -> None:
    async with running(limits=Limits(start_s=4.0), ready=False) as pipeline:
        os.kill(await started(pipeline, stage), signal.SIGSTOP)
        assert await pipeline.next_lost() == f"{stage}: hangs, no progress of its start for 4 s"
        await pipeline.until_ready()
        assert [seq for seq, _ in await pipeline.pass_frames(0, 1)] == [0, 1, 2]


async def test_a_stop_leaves_no_process_even_if_one_hangs_and_no_descriptor() -> None:
    before = psutil.Process().num_fds()
    async with running() as pipeline:
        pids = list(pipeline.supervisor.process_ids.values())
        assert len(pids) == 3
        os.kill(pids[1], signal.SIGSTOP)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert psutil.Process().num_fds() <= before


async def test_a_stop_in_the_middle_of_the_start_leaves_no_process() -> None:
    async with running(ready=False) as pipeline:
        await started(pipeline, Stage.STEP)
        pids = list(pipeline.supervisor.process_ids.values())
    await all_gone(pids)


async def test_a_stop_before_anything_has_started_is_one_too() -> None:
    stopped = asyncio.create_task(SupervisedPipeline().supervisor.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stopped.cancel()
    await asyncio.wait({stopped})
    assert stopped.cancelled()


@pytest.mark.slow
async def test_a_worker_that_ends_at_each_start_ends_the_service_with_its_exit_status() -> None:
    config = replace(LOOPBACK, log_format=cast("LineFormat", "which raises KeyError"))
    supervisor = Supervisor(config, lambda _: None, lambda _: None, lambda _: None)
    with pytest.raises(WorkerRefused, match=r"worker step fails at each start \(exit status 1\)"):
        async with asyncio.timeout(3 * PATIENCE_S):
            await supervisor.run()
    assert supervisor.process_ids == {}
