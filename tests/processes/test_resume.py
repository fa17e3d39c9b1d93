"""Calls go on in real processes that are started again: with the line test's engine, the hashes and the script."""

import os
import signal
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest

from tests.processes.pipeline import SupervisedPipeline, frame, running
from tests.synthetic import synthetic_cache
from tests.workers.codec.sounds import snr_db, sound
from tests.workers.config import LOOPBACK
from workers.engine.loopback import HASH_CHECKPOINT
from workers.messages import Epoch, Failed, Frame, Open, Resume, Resumed, Slot, Stage

SLOT = Slot(1)
STEP_BYTES = 34
HASHES = replace(LOOPBACK, checkpoint=HASH_CHECKPOINT)
HEARD = np.zeros((3, 1_920), np.int16)


async def talk(pipeline: SupervisedPipeline, epoch: int, first: int, frames: int) -> list[Frame]:
    came = []
    for seq in range(first, first + frames):
        pipeline.supervisor.send(frame(SLOT, epoch, seq))
        came.append(await pipeline.next_frame())
    return came


async def next_answer(pipeline: SupervisedPipeline) -> Resumed | Failed:
    while not isinstance(message := await pipeline.next_message(), Resumed | Failed):
        pass
    return message


async def kill(pipeline: SupervisedPipeline, stage: Stage) -> None:
    os.kill(pipeline.supervisor.process_ids[stage], signal.SIGKILL)
    await pipeline.next_lost()
    await pipeline.until_ready()


def proved(log: bytes) -> list[bool]:
    """Whether each step's text token is the hash of all steps before it, by the rule in `HashEngine`."""
    hashes = [blake2b(log[:end]).digest()[:2] for end in range(0, len(log), STEP_BYTES)]
    tokens = [log[at : at + 2] for at in range(0, len(log), STEP_BYTES)]
    return [
        int.from_bytes(a, "little") & 2_047 == int.from_bytes(b, "little") for a, b in zip(hashes, tokens, strict=True)
    ]


@pytest.mark.slow
async def test_a_call_goes_on_with_its_memory_in_a_pipeline_that_is_started_again() -> None:
    async with running(HASHES) as pipeline:
        pipeline.supervisor.send(Open(SLOT, Epoch(1)))
        before = await talk(pipeline, 1, 0, 5)
        await kill(pipeline, Stage.STEP)
        log = b"".join(one.tokens for one in before)
        gap = np.full((2, 1_920), 77, np.int16)
        resume = Resume(SLOT, Epoch(2), log, 5, 5.0, checkpoint=HASH_CHECKPOINT, heard=HEARD, gap=gap)
        pipeline.supervisor.send(resume)
        assert await next_answer(pipeline) == Resumed(SLOT, Epoch(2), 5, 0)
        of_gap = [await pipeline.next_frame() for _ in range(2)]
        after = [*of_gap, *await talk(pipeline, 2, 7, 3)]
        assert [one.seq for one in after] == [5, 6, 7, 8, 9]
        whole = log + b"".join(one.tokens for one in after)
        assert proved(whole) == [True] * 10
        assert [one.text for one in after] == [f"{int.from_bytes(one.tokens[:2], 'little'):03x} " for one in after]
        lost = log[: 3 * STEP_BYTES] + whole[4 * STEP_BYTES :]
        assert proved(lost) == [True] * 3 + [False] * 6, "one step lost is seen in all later ones"
        pipeline.supervisor.send(replace(resume, epoch=Epoch(3), checkpoint="another"))
        assert isinstance(await next_answer(pipeline), Failed)


@pytest.mark.slow
async def test_the_line_test_resumes_whatever_the_log() -> None:
    async with running() as pipeline:
        for epoch, log in enumerate([b"", bytes(STEP_BYTES), b"whatever"], 1):
            pipeline.supervisor.send(Resume(SLOT, Epoch(epoch), log, 7, 5.0, heard=HEARD))
            assert await next_answer(pipeline) == Resumed(SLOT, Epoch(epoch), 0, 0)
            (back,) = await talk(pipeline, epoch, 7, 1)
            assert back.pcm is not None
            assert back.pcm[0] == pytest.approx(0.7)


FRAMES, KNOWN = 14, 8


def spoken_frame(pcm: np.ndarray[tuple[int, int], np.dtype[np.int16]], epoch: int, seq: int) -> Frame:
    return Frame(SLOT, Epoch(epoch), seq, pcm[seq].astype(np.float32) / 32_767)


@pytest.mark.slow
@pytest.mark.parametrize("lost", Stage)
async def test_what_a_real_pipeline_says_after_a_loss_is_what_it_would_have_said(
    tmp_path_factory: pytest.TempPathFactory, lost: Stage
) -> None:
    """The same tokens, the caller's codes among them, and the same sound as a call that nothing happened to."""
    real = replace(LOOPBACK, engine="mlx", codec="numpy", checkpoint="synthetic:random:tiny:f32", context=50)
    config = replace(real, cache=synthetic_cache(tmp_path_factory))
    pcm = (sound("speech", FRAMES) * 32_767).round().clip(-32_767, 32_767).astype(np.int16)
    async with running(config) as pipeline:

        async def hear(epoch: int, first: int, last: int) -> list[Frame]:
            came = []
            for seq in range(first, last):
                pipeline.supervisor.send(spoken_frame(pcm, epoch, seq))
                came.append(await pipeline.next_frame())
            return came

        pipeline.supervisor.send(Open(SLOT, Epoch(1), seed=3))
        whole = await hear(1, 0, FRAMES)
        await kill(pipeline, lost)
        log = b"".join(one.tokens for one in whole[:KNOWN])
        pipeline.supervisor.send(
            Resume(SLOT, Epoch(2), log, KNOWN, 60.0, seed=3, heard=pcm[:KNOWN], gap=pcm[KNOWN : KNOWN + 2])
        )
        assert await next_answer(pipeline) == Resumed(SLOT, Epoch(2), KNOWN, 0)
        after = [await pipeline.next_frame() for _ in range(2)] + await hear(2, KNOWN + 2, FRAMES)
    assert [one.seq for one in after] == list(range(KNOWN, FRAMES))
    assert [one.tokens for one in after] == [one.tokens for one in whole[KNOWN:]]
    assert [one.text for one in after] == [one.text for one in whole[KNOWN:]]
    sounds = [np.array([one.pcm for one in frames]) for frames in (whole[KNOWN:], after)]
    assert snr_db(*sounds) > 100
