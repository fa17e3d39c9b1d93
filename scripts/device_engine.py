"""`python -m scripts.device_engine SECTION`: what `scripts/check_device.py` asks of MLX, one JSON object a line.

memory   what MLX says of its device, and what the service takes its memory to be
tokens   the same tokens as on the CPU: compiled and not, plain and quantised, past the window of the attention
engine   the step of random weights at growing numbers of calls, every KV cache full
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig

from workers.checkpoints.files import report_nothing
from workers.checkpoints.locate import locate
from workers.checkpoints.synthetic.lm_layout import FULL, TINY, config_of
from workers.engine.checkpoint import load, quantize_plain
from workers.engine.engine import Engine
from workers.engine.memory import Plan, device_memory, kv_step_bytes
from workers.engine.sampling import SamplingSettings
from workers.messages import CODEBOOKS, CODES, FRAME_S, CodeArray, Slot

Found = dict[str, Any]
SHAPES = {"tiny": TINY, "full": FULL}
BITS = {"bf16": None, "q8": 8, "q4": 4}
WINDOW, STAGGER = 16, 5
"""Steps: a short window, and by how many steps the calls begin after one another."""
WARM_UP_STEPS = 5
MEMORY_SHARE = 0.95
"""The share of the device's memory that is tried: the step's own arrays need some."""
GIVE_UP_S = 5 * FRAME_S


def main() -> None:
    args = _arguments()
    sections: dict[str, Callable[[], Iterator[Found]]] = {
        "memory": _memory,
        "tokens": lambda: _tokens(args.cache, args.steps),
        "engine": lambda: _engine(args.size, args.weights, args.rows, args.steps),
    }
    for found in sections[args.section]():
        print(json.dumps(found), flush=True)


def _memory() -> Iterator[Found]:
    info = dict(sorted(mx.device_info().items()))
    yield {"what": f"MLX on {mx.default_device()}", **info, "memory_limit": mx.get_memory_limit()}
    yield {"what": "memory that counts", **asdict(device_memory())}


def _plan(config: LmConfig, weights_bytes: int, weights: str) -> Plan:
    context = int(config.transformer.context)
    return Plan(weights_bytes, kv_step_bytes(config), "numpy", 1, context, quantised=weights != "bf16")


def _tokens(cache: Path, steps: int) -> Iterator[Found]:
    device = mx.default_device()
    for quantize in (None, 4, 8):
        wanted = _spoken(cache, quantize, mx.Device(mx.cpu), steps, compiles=False)
        for compiles in (False, True):
            spoken = _spoken(cache, quantize, device, steps, compiles)
            differ = np.flatnonzero((spoken != wanted).any(axis=(1, 2))).tolist()
            what = f"{quantize or 32} bits, {'compiled' if compiles else 'not compiled'}, {device} against the CPU"
            first = min(differ, default=None)
            yield {"what": what, "tokens": spoken.size, "equal": not differ, "first_difference": first}


def _spoken(cache: Path, quantize: int | None, device: mx.Device, steps: int, compiles: bool) -> CodeArray:
    """Return the logs of three calls under argmax, shape (steps, 3, 17); each begins some steps after the last one."""
    mx.set_default_device(device)
    (mx.enable_compile if compiles else mx.disable_compile)()
    lm = load(locate("synthetic:random:tiny:f32", cache, report_nothing, quantize), quantize)
    argmax = SamplingSettings(text_temperature=0.0, audio_temperature=0.0)
    engine, spoken = Engine(lm, 3, argmax, WINDOW), np.zeros((steps, 3, 1 + 2 * CODEBOOKS), np.int32)
    frames = _codes(3, steps)
    for step in range(steps):
        slots = [Slot(row) for row in range(3) if step >= STAGGER * row]
        for slot in slots:
            if step == STAGGER * slot:
                engine.open(slot)
        for slot, result in engine.step({slot: frames[step, slot] for slot in slots}).items():
            spoken[step, slot] = result.log
    return spoken


def _engine(size: str, weights: str, rows: Sequence[int], steps: int) -> Iterator[Found]:
    memory, started_s = device_memory(), time.monotonic()
    lm = random_lm(size, weights)
    plan = _plan(lm.cfg, sum(array.nbytes for array in _arrays(lm)), weights)
    kept = {"weights_gib": plan.weights / 2**30, "kv_gib_a_call": plan.kv_cache / 2**30}
    fit = {"calls_that_fit": plan.most_calls(memory), "shortage": plan.shortage(memory)}
    yield {"what": f"{size} {weights}", **kept, **fit, "made_in_s": time.monotonic() - started_s}
    for count in rows:
        if not replace(plan, calls=count).fits(memory, MEMORY_SHARE):
            yield {"what": f"{size} {weights}, {count} calls", "skipped": "does not fit into memory"}
            return
        found = _timed(lm, count, steps)
        yield {"what": f"{size} {weights}, {count} calls, full KV caches of {plan.context} steps", **found}
        if found["p50_ms"] > 1e3 * GIVE_UP_S:
            return


def _timed(lm: Lm, count: int, steps: int) -> Found:
    mx.reset_peak_memory()
    engine, frames = _full_engine(lm, count)
    times_s = [_step_s(engine, frames) for _ in range(WARM_UP_STEPS + steps)][WARM_UP_STEPS:]
    del engine
    mx.clear_cache()
    return {**_percentiles(times_s), "peak_gib": mx.get_peak_memory() / 2**30}


def _full_engine(lm: Lm, count: int) -> tuple[Engine, dict[Slot, CodeArray]]:
    """Return an engine whose calls have full KV caches, and one frame for each."""
    engine, frames = Engine(lm, count), {Slot(row): frame for row, frame in enumerate(_codes(count, 1)[0])}
    for slot in frames:
        engine.open(slot, seed=slot)
        engine.skip(slot, engine.context)
    return engine, frames


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
        quantize_plain(lm, bits)
    for array in _arrays(lm):
        mx.eval(array)
    mx.clear_cache()
    return lm


def _arrays(lm: Lm) -> Iterable[mx.array]:
    return dict(tree_flatten(lm.parameters())).values()


def _codes(rows: int, steps: int) -> CodeArray:
    """Return the callers' frames, shape (steps, rows, 8)."""
    return np.random.default_rng(0).integers(0, CODES, (steps, rows, CODEBOOKS)).astype(np.int32)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("section", choices=["memory", "tokens", "engine"])
    parser.add_argument("--size", choices=SHAPES, default="tiny")
    parser.add_argument("--weights", choices=BITS, default="q4")
    parser.add_argument("--rows", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/moshi-bridge").expanduser())
    return parser.parse_args()


if __name__ == "__main__":
    main()
