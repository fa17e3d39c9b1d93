"""`python -m workers.engine.device_check SECTION`: what `scripts/check_device.py` asks of MLX, one JSON object a line.

memory   what MLX says of its device and what the service plans with it
tokens   the same tokens as on the CPU: compiled and not, plain and quantised, past the window of the attention
engine   the step of random weights at growing numbers of calls, every KV cache full
hold     a step every 80 ms until standard input ends, for others to run beside; then how long the steps took
"""

import argparse
import json
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.quantized import quantize as quantize_modules
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig

from workers.checkpoints.synthetic.lm_layout import FULL, TINY, config_of
from workers.checkpoints.synthetic.random_lm import Weights
from workers.checkpoints.synthetic.random_lm import random_lm as random_tensors
from workers.engine.checkpoint import GROUP_SIZES, open_checkpoint
from workers.engine.engine import CODES, Engine
from workers.engine.memory import device_memory, ring_bytes
from workers.engine.sampling import ARGMAX, Sampling
from workers.memory import Plan
from workers.messages import CODEBOOKS, FRAME_S, CodeArray, Slot

Found = dict[str, Any]
SHAPES = {"tiny": TINY, "full": FULL}
BITS = {"bf16": None, "q8": 8, "q4": 4}
WINDOW, STAGGER = 16, 5
"""Steps: a window that soon is full, and by how many steps the calls begin after one another."""
SETTLE = 5
MEMORY_SHARE = 0.95
"""The share of the device's memory that is tried: the step's own arrays need some."""
HOPELESS_S = 5 * FRAME_S


def main() -> None:
    """Run one section and print what is found as it is found."""
    asked = _arguments()
    for found in _section(asked):
        print(json.dumps(found), flush=True)


def _section(asked: argparse.Namespace) -> Iterator[Found]:
    match asked.section:
        case "memory":
            return _memory()
        case "tokens":
            return _tokens(asked.cache, asked.steps)
        case "engine":
            return _engine(asked.size, asked.weights, asked.rows, asked.steps)
        case _:
            return _hold(asked.size, asked.weights, asked.rows[0])


def _memory() -> Iterator[Found]:
    info = {key: mx.device_info()[key] for key in sorted(mx.device_info())}
    yield {"what": f"MLX on {mx.default_device()}", **info, "memory_limit": mx.get_memory_limit()}
    memory = device_memory()
    yield {"what": "memory that counts", **asdict(memory)}
    config = LmConfig.from_config_dict(config_of(FULL))
    published: tuple[Weights, ...] = ("q4", "bf16")
    for weights in published:
        size = sum(tensor.size for tensor in random_tensors(FULL, weights).values())
        plan = Plan(size, ring_bytes(config, 1, 1), "numpy", 1, int(config.transformer.context), weights == "q4")
        fit = {"weights_gib": size / 2**30, "calls_that_fit": plan.most_calls(memory)}
        yield {"what": f"planned for the 7B in {weights}", **fit, "shortage": plan.shortage(memory)}


def _tokens(cache: Path, steps: int) -> Iterator[Found]:
    device = mx.default_device()
    for quantize in (None, 4, 8):
        wanted = _said(cache, quantize, mx.Device(mx.cpu), steps, compiles=False)
        for compiles in (False, True):
            said = _said(cache, quantize, device, steps, compiles)
            differ = np.flatnonzero((said != wanted).any(axis=(1, 2)))
            what = f"{quantize or 32} bits, {'compiled' if compiles else 'not compiled'}, {device} against the CPU"
            yield {
                "what": what,
                "tokens": said.size,
                "equal": not len(differ),
                "first_difference": min(differ.tolist(), default=None),
            }


def _said(cache: Path, quantize: int | None, device: mx.Device, steps: int, compiles: bool) -> CodeArray:
    """Return what three calls say under argmax, shape (steps, 3, 17); each begins some steps after the one before."""
    mx.set_default_device(device)
    (mx.enable_compile if compiles else mx.disable_compile)()
    checkpoint = open_checkpoint("synthetic:random:tiny:f32", quantize, cache=cache, progress=lambda *_: None)
    engine, said = Engine(checkpoint.lm, 3, ARGMAX, WINDOW), np.zeros((steps, 3, 1 + 2 * CODEBOOKS), np.int32)
    heard = _codes(3, steps)
    for step in range(steps):
        slots = [Slot(row) for row in range(3) if step >= STAGGER * row]
        for slot in slots:
            if step == STAGGER * slot:
                engine.open(slot)
        for slot, spoken in engine.step({slot: heard[step, slot] for slot in slots}).items():
            said[step, slot] = spoken.log
    return said


def _engine(size: str, weights: str, rows: Sequence[int], steps: int) -> Iterator[Found]:
    memory, started_s = device_memory(), time.monotonic()
    lm = random_lm(size, weights)
    context = int(lm.cfg.transformer.context)
    taken = sum(array.nbytes for array in _arrays(lm))
    plan = Plan(taken, ring_bytes(lm.cfg, 1, 1), "numpy", 1, context, weights != "bf16")
    fit = {
        "calls_that_fit": plan.most_calls(memory),
        "weights_gib": taken / 2**30,
        "kv_gib_a_call": plan.kv_cache / 2**30,
    }
    yield {"what": f"{size} {weights}", **fit, "made_in_s": time.monotonic() - started_s}
    for count in rows:
        if not replace(plan, calls=count).fits(memory, MEMORY_SHARE):
            yield {"what": f"{size} {weights}, {count} calls", "skipped": "does not fit into memory"}
            return
        found = _timed(lm, count, steps)
        yield {"what": f"{size} {weights}, {count} calls, full KV caches of {context} steps", **found}
        if found["p50_ms"] > 1e3 * HOPELESS_S:
            return


def _timed(lm: Lm, count: int, steps: int) -> Found:
    mx.reset_peak_memory()
    engine, heard = _full_engine(lm, count), _codes(count, 1)[0]
    frames = {Slot(row): heard[row] for row in range(count)}
    times_s = [_step_s(engine, frames) for _ in range(SETTLE + steps)][SETTLE:]
    del engine
    mx.clear_cache()
    return {**_percentiles(times_s), "peak_gib": mx.get_peak_memory() / 2**30}


def _hold(size: str, weights: str, count: int) -> Iterator[Found]:
    engine, heard = _full_engine(random_lm(size, weights), count), _codes(count, 1)[0]
    frames = {Slot(row): heard[row] for row in range(count)}
    for _ in range(SETTLE):
        engine.step(frames)
    yield {"what": "ready"}
    times_s, next_s = [], time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, next_s - time.monotonic()))[0]:
        times_s.append(_step_s(engine, frames))
        next_s = max(next_s + FRAME_S, time.monotonic())
    yield {"what": f"engine, {size} {weights}, {count} calls", **_percentiles(times_s or [0.0])}


def _full_engine(lm: Lm, count: int) -> Engine:
    engine = Engine(lm, count, Sampling())
    for row in range(count):
        engine.open(Slot(row), seed=row)
        engine.skip(Slot(row), engine.context)
    return engine


def _step_s(engine: Engine, frames: dict[Slot, CodeArray]) -> float:
    started_s = time.monotonic()
    engine.step(frames)
    return time.monotonic() - started_s


def _percentiles(times_s: Sequence[float]) -> Found:
    p50, p99 = (float(value) for value in np.percentile(np.array(times_s) * 1e3, [50, 99]))
    return {"p50_ms": p50, "p99_ms": p99, "in_time": p99 <= 1e3 * FRAME_S, "steps": len(times_s)}


def random_lm(size: str, weights: str) -> Lm:
    """Return a Moshi of random weights, made on the device: no file of 15 GB is written and read.

    One array after the other is made, so that only one at a time is there in float32.
    """
    lm, bits = Lm(LmConfig.from_config_dict(config_of(SHAPES[size]))), BITS[weights]
    lm.set_dtype(mx.bfloat16)
    if bits:
        group = GROUP_SIZES[bits]
        divides = lambda _, module: hasattr(module, "to_quantized") and module["weight"].shape[-1] % group == 0  # noqa: E731
        quantize_modules(lm, group_size=group, bits=bits, class_predicate=divides)
    for array in _arrays(lm):
        mx.eval(array)
    mx.clear_cache()
    return lm


def _arrays(lm: Lm) -> Iterator[mx.array]:
    yield from dict(tree_flatten(lm.parameters())).values()


def _codes(rows: int, steps: int) -> CodeArray:
    """Return what callers are heard with, shape (steps, rows, 8)."""
    return np.random.default_rng(0).integers(0, CODES, (steps, rows, CODEBOOKS)).astype(np.int32)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("section", choices=["memory", "tokens", "engine", "hold"])
    parser.add_argument("--size", choices=SHAPES, default="tiny")
    parser.add_argument("--weights", choices=BITS, default="q4")
    parser.add_argument("--rows", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/moshi-bridge").expanduser())
    return parser.parse_args()


if __name__ == "__main__":
    main()
