"""How many calls at once: as many as fit into memory, and as their common step is in time for."""

import time

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm

from workers.checkpoints.locate import Files, Progress, report_nothing
from workers.engine.engine import Engine
from workers.engine.memory import plan
from workers.engine.sampling import Sampling
from workers.memory import Memory, MemoryShort
from workers.messages import CODEBOOKS, FRAME_S, Slot, WorkerConfig

SPARE = 0.9
"""The share of free memory that MAX_CALLS=auto may take."""
STEP_SHARE = 0.75
"""The share of a frame's time that a step may take: the codec and the rest of the machine need theirs."""
TIMED_STEPS = 12


def fitting_slots(files: Files, config: WorkerConfig, memory: Memory) -> int:
    """Return how many calls fit into `memory`, at most 64.

    Raises MemoryShort if not even one, or not the `config.slots` that are wanted.
    """
    wanted = plan(files, config.quantize, config.codec, config.slots or 1, config.context)
    if shortage := wanted.shortage(memory):
        raise MemoryShort(shortage)
    if config.slots:
        return config.slots
    if slots := wanted.most_calls(memory, SPARE):
        return slots
    raise MemoryShort("MAX_CALLS=auto: not one call fits with memory to spare; set MAX_CALLS=1 to try it")


def timely_engine(
    lm: Lm, slots: int, sampling: Sampling, context: int | None, progress: Progress = report_nothing
) -> Engine:
    """Return a warm engine with as many slots, of `slots` or half, a quarter … of them, as it can step in time."""
    while True:
        engine = Engine(lm, slots, sampling, context)
        engine.warm(progress)
        if slots == 1 or full_step_s(engine, progress) <= STEP_SHARE * FRAME_S:
            return engine
        del engine
        mx.clear_cache()
        slots = max(1, slots // 2)


def full_step_s(engine: Engine, progress: Progress = report_nothing) -> float:
    """Return the 95th percentile of the time of a step of all slots with full rings, in seconds."""
    silence = {Slot(slot): np.zeros(CODEBOOKS, np.int32) for slot in range(engine.slots)}
    for slot in silence:
        engine.open(slot)
        engine.skip(slot, engine.context)
    times = []
    for number in range(TIMED_STEPS):
        times.append(_timed(engine, silence))
        progress(f"timing {engine.slots} calls", number + 1, TIMED_STEPS)
    for slot in silence:
        engine.close(slot)
    return float(np.percentile(times[1:], 95))


def _timed(engine: Engine, frames: "dict[Slot, np.ndarray[tuple[int], np.dtype[np.int32]]]") -> float:
    started_s = time.monotonic()
    engine.step(frames)
    return time.monotonic() - started_s
