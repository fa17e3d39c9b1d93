"""Four hours of steps, as fast as they go: `python -m tests.workers.engine.flat [steps]`. All must be flat."""

import sys
import time
from pathlib import Path

import numpy as np
import psutil

from workers.engine.blas import use_openblas

BLOCK = 1_000
CACHE = Path("~/.cache/moshi-bridge").expanduser()


def main(steps: int) -> None:
    """Print the median step time and the memory of each tenth of the way."""
    use_openblas(CACHE)
    from workers.engine.checkpoint import open_checkpoint
    from workers.engine.engine import Engine
    from workers.messages import Slot

    checkpoint = open_checkpoint("synthetic:random:tiny:f32", None, cache=CACHE, progress=lambda *_: None)
    engine = Engine(checkpoint.lm, 1, checkpoint.sampling)
    engine.warm()
    engine.open(Slot(0), seed=1)
    random = np.random.default_rng(0)
    for block in range(steps // BLOCK):
        heard = random.integers(0, 2048, (BLOCK, 8), dtype=np.int32)
        times = []
        for frame in heard:
            began_s = time.perf_counter()
            engine.step({Slot(0): frame})
            times.append(time.perf_counter() - began_s)
        if block in (1, 2, 3) or (block + 1) % max(1, steps // BLOCK // 10) == 0:
            memory = psutil.Process().memory_info().rss / 2**20
            print(f"step {(block + 1) * BLOCK:7}: p50 {np.median(times) * 1e3:.2f} ms, {memory:.1f} MiB", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 180_000)
