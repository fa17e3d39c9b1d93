"""What bringing a call back takes: the steps of its log prefilled against stepping them."""

import time
from functools import partial
from statistics import fmean, median

import numpy as np
from moshi_mlx.models import Lm

from workers.engine.engine import Engine
from workers.engine.prompt import CHUNKS
from workers.engine.prompt_bench import seconds
from workers.engine.sampling import SamplingSettings
from workers.messages import CODEBOOKS, CODES, STEP_TOKENS, Slot

STEPS = 3_000
"""As many as the published Moshi remembers."""
STEPPED = 3
"""Steps that are timed after each pass, at its position; the median counts."""
MOST_S = 60.0
ONE = Slot(0)


def bench_prefill(lm: Lm, sampling: SamplingSettings, context: int | None, steps: int = STEPS) -> dict[str, float]:
    """Prefill a log of random tokens in turns with steps at the same positions.

    Stops after a minute; then `steps` are fewer. `ratio` is what a stepped position takes against a prefilled one.
    """
    prefilled, stepped = (Engine(lm, 1, sampling, context) for _ in range(2))
    log = np.random.default_rng(0).integers(0, CODES, (steps, STEP_TOKENS), dtype=np.int32)
    log[:, 0] %= lm.cfg.text_out_vocab_size
    prefilled.warm()
    stepped.warm()
    for engine in (prefilled, stepped):
        engine.open(ONE)
    prefill_s, step_s, done, began_s = 0.0, list[float](), 0, time.monotonic()
    while done < steps and time.monotonic() < began_s + MOST_S:
        chunk = log[done : done + max(CHUNKS)]
        prefill_s += seconds(partial(prefilled.prefill, ONE, chunk))
        done += len(chunk)
        silence = {ONE: np.zeros(CODEBOOKS, np.int32)}
        step_s.append(median(seconds(partial(stepped.step, silence)) for _ in range(STEPPED)))
        stepped.skip(ONE, len(chunk) - STEPPED)
    position_ms, step_ms = prefill_s / done * 1e3, fmean(step_s) * 1e3
    times = {"prefill_s": prefill_s, "position_ms": position_ms, "step_ms": step_ms}
    return {"steps": done, **times, "ratio": step_ms / position_ms}
