"""From files on disk to an engine that has taken its first step."""

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
from moshi_mlx.models import Lm

from workers.checkpoint_files import Files, Progress
from workers.engine.capacity import fitting_slots, timely_engine
from workers.engine.checkpoint import load, sampling_of
from workers.engine.engine import Engine
from workers.engine.memory import weights_bytes
from workers.engine.sampling import Sampling
from workers.engine.text import Pieces, Vocabulary
from workers.memory import available_bytes
from workers.messages import WorkerConfig

CACHE_BYTES = 256 << 20
"""What MLX may keep of freed memory on a Mac; shapes are fixed, so more would never be used."""


def start_engine(files: Files, config: WorkerConfig, progress: Progress) -> tuple[Engine, Callable[[], Pieces], str]:
    """Load, warm up, and return the engine, what makes a call's `Pieces`, and a note on what it runs on.

    Raises CheckpointError, or MemoryShort before anything is loaded.
    """
    slots = fitting_slots(files, config, available_bytes())
    progress("loading weights", 0, weights_bytes(files, config.quantize))
    lm = load(files, config.quantize, progress)
    sampling = replace(sampling_of(files), **dict(config.sampling))  # type: ignore[arg-type]
    engine = _engine(lm, slots, config, sampling, progress)
    _wire()
    vocabulary = Vocabulary(files.tokenizer)
    return engine, lambda: Pieces(vocabulary), f"{config.checkpoint}, {engine.slots} calls on {mx.default_device()}"


def _engine(lm: Lm, slots: int, config: WorkerConfig, sampling: Sampling, progress: Progress) -> Engine:
    if not config.slots:
        return timely_engine(lm, slots, sampling, config.context, progress)
    engine = Engine(lm, slots, sampling, config.context)
    engine.warm(progress)
    return engine


def _wire() -> None:
    """On a Mac keep weights and rings resident, and nothing else: macOS takes back what lies idle for a second."""
    if mx.metal.is_available():
        mx.set_cache_limit(CACHE_BYTES)
        mx.set_wired_limit(mx.get_active_memory())
