"""From files on disk to an engine that has taken its first step."""

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
from moshi_mlx.models import Lm

from workers.checkpoints.locate import Files, Progress
from workers.engine.capacity import fitting_slots, timely_engine
from workers.engine.checkpoint import load, sampling_of
from workers.engine.engine import Engine
from workers.engine.memory import device_memory, keep_resident, weights_bytes
from workers.engine.sampling import Sampling
from workers.engine.text import Pieces, Vocabulary
from workers.messages import WorkerConfig


def start_engine(files: Files, config: WorkerConfig, progress: Progress) -> tuple[Engine, Callable[[], Pieces], str]:
    """Load, warm up, and return the engine, what makes a call's `Pieces`, and a note on what it runs on.

    Raises CheckpointError, or MemoryShort before anything is loaded.
    """
    slots = fitting_slots(files, config, device_memory())
    progress("loading weights", 0, weights_bytes(files, config.quantize))
    lm = load(files, config.quantize, progress)
    sampling = replace(sampling_of(files), **dict(config.sampling))  # type: ignore[arg-type]
    engine = _engine(lm, slots, config, sampling, progress)
    keep_resident()
    vocabulary = Vocabulary(files.tokenizer)
    return engine, lambda: Pieces(vocabulary), f"{config.checkpoint}, {engine.slots} calls on {mx.default_device()}"


def _engine(lm: Lm, slots: int, config: WorkerConfig, sampling: Sampling, progress: Progress) -> Engine:
    if not config.slots:
        return timely_engine(lm, slots, sampling, config.context, progress)
    engine = Engine(lm, slots, sampling, config.context)
    engine.warm(progress)
    return engine
