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
    """Time the official `LmGen`, this engine with each number of rows, all slots live, and `LmGen` again.

    Each is given a fifth of its steps to settle. With `full` our rings are as after `context` steps, so that every
    step looks at all of them; `LmGen` begins at step 0. The ratios are against the faster one of `LmGen`'s two turns:
    the first on weights as they were loaded, the second as this engine has laid them out.
    """
    sampling = sampling or Sampling()
    random = np.random.default_rng(0)
    codes = random.integers(0, CODES, (max(rows, default=1), CODEBOOKS), dtype=np.int32)
    turns = [_timed(_official_step(lm, sampling, codes[:1], steps), steps)]
    ours = {}
    for count in rows:
        engine = Engine(lm, count, sampling, context)
        ours[count] = _timed(_engine_step(engine, codes[:count], engine.context if full else 0), steps)
        del engine
    turns.append(_timed(_official_step(lm, sampling, codes[:1], steps), steps))
    official = min(turns, key=lambda times: float(np.median(times)))
    return [_summary(0, official, official), *(_summary(count, times, official) for count, times in ours.items())]


def _official_step(lm: Lm, sampling: Sampling, codes: CodeArray, steps: int) -> Callable[[], object]:
    text = Sampler(temp=sampling.text_temperature, top_k=sampling.text_top_k)
    audio = Sampler(temp=sampling.audio_temperature, top_k=sampling.audio_top_k)
    for cache in lm.transformer_cache:
        cache.reset()
    official = LmGen(lm, max_steps=2 * steps, text_sampler=text, audio_sampler=audio)

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


def _timed(step: Callable[[], object], steps: int) -> list[float]:
    """Return the seconds of each step, after a fifth as many to settle."""
    for _ in range(steps // 5 + 2):
        step()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return times


def _summary(rows: int, times: Sequence[float], official: Sequence[float]) -> StepTime:
    p50, p99 = np.percentile(times, [50, 99])
    calls = max(rows, 1)
    return StepTime(
        rows, float(p50 * 1e3), float(p99 * 1e3), calls / float(p50), calls * float(np.median(official) / p50)
    )
