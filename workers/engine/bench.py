"""The batched step against the official one, on the same weights and in the same run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm, LmGen
from moshi_mlx.utils import Sampler

from workers.engine.engine import CODES, Engine
from workers.engine.sampling import Sampling
from workers.messages import CODEBOOKS, CodeArray, Slot

ROWS = (1, 2, 4, 8, 16, 32)
SETTLE = 4
TURN = 4
"""Steps of one before the other has his turn."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """What one step takes, in milliseconds, and how many calls' steps a second that makes.

    `ratio` is steps a second against the official `LmGen`, which serves one call; `rows` 0 stands for itself.
    """

    rows: int
    p50_ms: float
    p99_ms: float
    steps_per_s: float
    ratio: float


def bench_engine(
    lm: Lm,
    rows: Sequence[int] = ROWS,
    steps: int = 100,
    sampling: Sampling | None = None,
    context: int | None = None,
    full: bool = False,
) -> list[StepTime]:
    """Time this engine with each number of rows, all slots live, against the official `LmGen` in turns of some steps.

    A machine that is now faster and now slower is so for both. Each is given a fifth of its steps to settle. With
    `full` our rings are as after `context` steps, so that every step looks at all of them; `LmGen` begins at step 0,
    on the weights as this engine has laid them out.
    """
    sampling = sampling or Sampling()
    random = np.random.default_rng(0)
    codes = random.integers(0, CODES, (max(rows, default=1), CODEBOOKS), dtype=np.int32)

    def race(rows: int, step: Callable[[], object]) -> tuple[StepTime, list[float]]:
        official, ours = _in_turns(_official_step(lm, sampling, codes[:1], steps), step, steps)
        return _summary(rows, ours, official), official

    found: list[StepTime] = []
    officials: list[float] = []
    for count in rows:
        engine = Engine(lm, count, sampling, context)
        ours, official = race(count, _engine_step(engine, codes[:count], engine.context if full else 0))
        found.append(ours)
        officials += official
        del engine
    return [_summary(0, officials, officials), *found]


def _official_step(lm: Lm, sampling: Sampling, codes: CodeArray, steps: int) -> Callable[[], object]:
    text = Sampler(temp=sampling.text_temperature, top_k=sampling.text_top_k)
    audio = Sampler(temp=sampling.audio_temperature, top_k=sampling.audio_top_k)
    for cache in lm.transformer_cache:
        cache.reset()
    official = LmGen(lm, max_steps=2 * steps + 2 * SETTLE, text_sampler=text, audio_sampler=audio)

    def step() -> None:
        token = official.step(mx.array(codes))[0]
        token.item()
        spoken = official.last_audio_tokens()
        if spoken is not None:
            np.array(spoken)

    return step


def _engine_step(engine: Engine, codes: CodeArray, skipped: int) -> Callable[[], object]:
    heard = {Slot(row): frame for row, frame in enumerate(codes)}
    for slot in heard:
        engine.open(slot, seed=slot)
        engine.skip(slot, skipped)
    return lambda: engine.step(heard)


def _in_turns(one: Callable[[], object], other: Callable[[], object], steps: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each step of both, after some to settle."""
    for step in (one, other):
        for _ in range(steps // 5 + SETTLE):
            step()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(0, steps, TURN):
        for step, taken in zip((one, other), times, strict=True):
            for _ in range(TURN):
                started = time.perf_counter()
                step()
                taken.append(time.perf_counter() - started)
    return times


def _summary(rows: int, times: Sequence[float], official: Sequence[float]) -> StepTime:
    p50, p99 = np.percentile(times, [50, 99])
    calls = max(rows, 1)
    return StepTime(
        rows, float(p50 * 1e3), float(p99 * 1e3), calls / float(p50), calls * float(np.median(official) / p50)
    )
