"""Four hours of steps, as fast as they go: `python -m tests.workers.engine.flat [steps]`. All must be flat.

Other jobs come and go in the time that this takes, so the old call is timed against a young engine: they take turns,
step by step, first in the young one's second thousand of steps, then when its ring is full as well.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from workers.messages import Slot

if TYPE_CHECKING:
    from workers.engine.engine import Engine

BLOCK = 1_000
ONE = Slot(0)
CACHE = Path("~/.cache/moshi-bridge").expanduser()
RANDOM = np.random.default_rng(0)


def main(steps: int) -> None:
    """Print the median step time and the memory of each tenth of the way, and how the end compares with a youth."""
    from workers.engine.checkpoint import open_checkpoint
    from workers.engine.engine import Engine

    checkpoint = open_checkpoint("synthetic:random:tiny:f32", None, cache=CACHE, progress=lambda *_: None)

    def begin() -> Engine:
        engine = Engine(checkpoint.lm, 1, checkpoint.sampling)
        engine.warm()
        engine.open(ONE, seed=1)
        return engine

    old = begin()
    for block in range(steps // BLOCK):
        took_ms = [_step_ms(old) for _ in range(BLOCK)]
        if block in (1, 2, 3) or (block + 1) % max(1, steps // BLOCK // 10) == 0:
            memory = psutil.Process().memory_info().rss / 2**20
            print(f"step {(block + 1) * BLOCK:7}: p50 {np.median(took_ms):.2f} ms, {memory:.1f} MiB", flush=True)
    young = begin()
    for _ in range(BLOCK):
        young.step({ONE: _frame()})
    _race("a young call's second thousand of steps", old, young)
    for _ in range(old.context):
        young.step({ONE: _frame()})
    _race("a young call's ring is full", old, young)


def _race(what: str, old: "Engine", young: "Engine") -> None:
    pairs = np.array([(_step_ms(old), _step_ms(young)) for _ in range(BLOCK)])
    old_ms, young_ms = np.median(pairs, axis=0)
    print(f"{what}: old {old_ms:.2f} ms, young {young_ms:.2f} ms, {old_ms / young_ms:.3f} times as long", flush=True)


def _step_ms(engine: "Engine") -> float:
    frame = _frame()
    began_s = time.perf_counter()
    engine.step({ONE: frame})
    return (time.perf_counter() - began_s) * 1e3


def _frame() -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return RANDOM.integers(0, 2048, 8, dtype=np.int32)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 180_000)
