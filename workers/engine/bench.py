"""`python -m workers.engine.bench …`: the batched step against the official `LmGen`, prefill against steps, as JSON.

A process of its own, since the app never imports mlx.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm, LmGen
from moshi_mlx.utils import Sampler

from workers.checkpoints.files import CheckpointError, report_nothing
from workers.checkpoints.locate import locate
from workers.engine.checkpoint import load, sampling_of
from workers.engine.engine import Engine
from workers.engine.prefill_bench import bench_prefill
from workers.engine.prompt_bench import bench_prompts, seconds
from workers.engine.sampling import SamplingSettings
from workers.messages import CODEBOOKS, CODES, CodeArray, Slot

WARM_UP_STEPS = 4
STEPS_IN_TURN = 4
"""Steps of one before those of the other."""


def bench_engine(
    lm: Lm, rows: Sequence[int], steps: int, sampling: SamplingSettings, context: int | None, full: bool = False
) -> list[dict[str, float]]:
    """Time this engine with each number of rows, all slots live, in turns with the official `LmGen`, which comes first.

    Turns of a few steps, so that a machine whose speed drifts is as unfair to one as to the other. With `full` our KV
    caches are as after `context` steps; `LmGen` begins at step 0, on the weights as this engine has laid them out.
    """
    codes = np.random.default_rng(0).integers(0, CODES, (max(rows), CODEBOOKS), dtype=np.int32)
    ours: list[dict[str, float]] = []
    official: list[float] = []
    for count in rows:
        step = _engine_step(Engine(lm, count, sampling, context), codes[:count], full)
        theirs, times = _in_turns(_official_step(lm, sampling, codes[:1], steps), step, steps)
        ours.append(_summary(count, times, theirs))
        official += theirs
        del step
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


def _engine_step(engine: Engine, codes: CodeArray, full: bool) -> Callable[[], object]:
    frames = {Slot(row): frame for row, frame in enumerate(codes)}
    for slot in frames:
        engine.open(slot, seed=slot)
        engine.skip(slot, engine.context if full else 0)
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
                taken.append(seconds(step))
    return times


def _summary(rows: int, times: Sequence[float], official: Sequence[float]) -> dict[str, float]:
    """Return what a step of `rows` calls takes, and how many calls' steps a second that makes; rows 0 is `LmGen`.

    `ratio` is steps a second against the official `LmGen`, which serves one call.
    """
    p50, p99 = (float(value) for value in np.percentile(times, [50, 99]))
    calls, median = max(rows, 1), float(np.median(official))
    times_ms = {"p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3}
    return {"rows": rows, **times_ms, "steps_per_s": calls / p50, "ratio": calls * median / p50}


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
    parser.add_argument("--prompts", action="store_true")
    args = parser.parse_args()
    try:
        files = locate(args.checkpoint, args.cache, report_nothing, args.quantize)
        lm, sampling = load(files, args.quantize), sampling_of(files)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    times = bench_engine(lm, args.rows, args.steps, sampling, args.context, args.full)
    machine = {"platform": platform.platform(), "device": str(mx.default_device())}
    prompts = bench_prompts(lm, max(args.rows), sampling, args.context) if args.prompts else {}
    prefill = bench_prefill(lm, sampling, args.context)
    figures = {"checkpoint": args.checkpoint, "times": times, "prompts": prompts, "prefill": prefill}
    json.dump({"machine": machine, **figures}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
