"""From files on disk to an engine that has taken its first step."""

from collections.abc import Callable

import mlx.core as mx

from workers.checkpoint_files import Files, Progress
from workers.engine.checkpoint import config_of, load, sampling_of
from workers.engine.engine import Engine
from workers.engine.memory import number_bytes, ring_bytes, weights_bytes
from workers.engine.text import Pieces, Vocabulary
from workers.memory import require_memory
from workers.messages import WorkerConfig


def start_engine(files: Files, config: WorkerConfig, progress: Progress) -> tuple[Engine, Callable[[], Pieces], str]:
    """Load, warm up, and return the engine, what makes a call's `Pieces`, and a note on what it runs on.

    Raises CheckpointError, or MemoryShort before anything is loaded.
    """
    weights = weights_bytes(files, config.quantize)
    ring = ring_bytes(config_of(files), config.slots, item_bytes=number_bytes(files))
    require_memory(weights, ring, config.slots, config.codec)
    progress("loading weights", 0, weights)
    lm = load(files, config.quantize)
    progress("loading weights", weights, weights)
    engine = Engine(lm, config.slots, sampling_of(files))
    progress("warming up", 0, 1)
    engine.warm()
    progress("warming up", 1, 1)
    vocabulary = Vocabulary(files.tokenizer)
    return engine, lambda: Pieces(vocabulary), f"{config.checkpoint} on {mx.default_device()}"
