"""`python -m workers.engine.bench …`: the batched step against the official `LmGen`, as one JSON object.

A process of its own, since the app never imports mlx.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm, LmGen
from moshi_mlx.utils import Sampler

from workers.checkpoints.files import CheckpointError, report_nothing
from workers.engine.checkpoint import open_checkpoint
from workers.engine.engine import Engine
from workers.engine.sampling import SamplingSettings
from workers.messages import CODEBOOKS, CODES, CodeArray, Slot

WARM_UP_STEPS = 4
STEPS_IN_TURN = 4
"""Steps of one before those of the other."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """What one step of `rows` calls takes, in milliseconds, and how many calls' steps a second that makes.

    `ratio` is steps a second against the official `LmGen`, which serves one call; `rows` 0 is `LmGen` itself.
    """

    rows: int
    p50_ms: float
    p99_ms: float
    steps_per_s: float
    ratio: float


def bench_engine(
    lm: Lm,
    rows: Sequence[int],
    steps: int = 100,
    sampling: SamplingSettings | None = None,
    context: int | None = None,
    full: bool = False,
) -> list[StepTime]:
    """Time this engine with each number of rows, all slots live, in turns with the official `LmGen`.

    Turns of a few steps, so that a machine whose speed drifts is as unfair to one as to the other. With `full` our KV
    caches are as after `context` steps; `LmGen` begins at step 0, on the weights as this engine has laid them out.
    """
    sampling = sampling or SamplingSettings()
    codes = np.random.default_rng(0).integers(0, CODES, (max(rows), CODEBOOKS), dtype=np.int32)
    ours: list[StepTime] = []
    official: list[float] = []
    for count in rows:
        engine = Engine(lm, count, sampling, context)
        step = _engine_step(engine, codes[:count], engine.context if full else 0)
        theirs, times = _in_turns(_official_step(lm, sampling, codes[:1], steps), step, steps)
        ours.append(_summary(count, times, theirs))
        official += theirs
        del engine, step
    return [_summary(0, official, official), *ours]


def _official_step(lm: Lm, sampling: SamplingSettings, codes: CodeArray, steps: int) -> Callable[[], object]:
    text = Sampler(temp=sampling.text_temperature, top_k=sampling.text_top_k)
    audio = Sampler(temp=sampling.audio_temperature, top_k=sampling.audio_top_k)
    for cache in lm.transformer_cache:
        cache.reset()
    official = LmGen(lm, max_steps=2 * steps + 2 * WARM_UP_STEPS, text_sampler=text, audio_sampler=audio)

    def step() -> None:
        official.step(mx.array(codes))[0].item()
        spoken = official.last_audio_tokens()
        if spoken is not None:
            np.array(spoken)

    return step


def _engine_step(engine: Engine, codes: CodeArray, skipped: int) -> Callable[[], object]:
    frames = {Slot(row): frame for row, frame in enumerate(codes)}
    for slot in frames:
        engine.open(slot, seed=slot)
        engine.skip(slot, skipped)
    return lambda: engine.step(frames)


def _in_turns(one: Callable[[], object], other: Callable[[], object], steps: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each step of both, after some to warm up."""
    for step in (one, other):
        for _ in range(steps // 5 + WARM_UP_STEPS):
            step()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(0, steps, STEPS_IN_TURN):
        for step, taken in zip((one, other), times, strict=True):
            for _ in range(STEPS_IN_TURN):
                started = time.perf_counter()
                step()
                taken.append(time.perf_counter() - started)
    return times


def _summary(rows: int, times: Sequence[float], official: Sequence[float]) -> StepTime:
    p50, p99 = (float(value) for value in np.percentile(times, [50, 99]))
    calls = max(rows, 1)
    return StepTime(rows, p50 * 1e3, p99 * 1e3, calls / p50, calls * float(np.median(official)) / p50)


def main() -> int:
    """Run the bench and print one JSON object; exit with 2 and one line if the checkpoint cannot be used."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--quantize", type=int)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--context", type=int)
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    try:
        checkpoint = open_checkpoint(args.checkpoint, args.quantize, cache=args.cache, progress=report_nothing)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    times = bench_engine(checkpoint.lm, args.rows, args.steps, checkpoint.sampling, args.context, args.full)
    machine = {"platform": platform.platform(), "device": str(mx.default_device())}
    found = {"machine": machine, "checkpoint": args.checkpoint, "times": [asdict(one) for one in times]}
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
