"""Which codec CODEC means, and which library computes it."""

import sys
from pathlib import Path
from typing import Literal

from workers.codec.codec import Codec, LoopbackCodec
from workers.codec.mimi import Mimi
from workers.codec.weights import load
from workers.control_messages import WorkerConfig
from workers.gc_freeze import give_back_freed_memory
from workers.messages import CODEBOOKS, SPEECH_CODEBOOKS, Stage

Library = Literal["numpy", "mlx"]


def fastest_library(platform: str = sys.platform) -> Library:
    """Return what suits this machine: MLX on CUDA, else numpy.

    A Mac has a GPU too, but the engine needs all of it: numpy computes on its processors with Apple's Accelerate.
    """
    if platform == "darwin":
        return "numpy"
    try:
        import mlx.core as mx
    except ImportError:
        return "numpy"
    return "mlx" if mx.cuda.is_available() else "numpy"


def library_for(codec: str) -> Library:
    """Return the library that CODEC names; `auto` is the fastest. Raises ValueError."""
    match codec:
        case "mlx" | "numpy":
            return codec
        case "auto":
            return fastest_library()
        case _:
            raise ValueError(f"no library computes CODEC={codec}")


def codec_name(config: WorkerConfig) -> str:
    """Return what computes the codec, for log lines."""
    return config.codec if config.codec in ("loopback", "rustymimi") else f"Mimi on {library_for(config.codec)}"


def open_codec(config: WorkerConfig) -> Codec:
    """Return the warm encoder or decoder, as `stage` says, for all slots. Raises WeightsError."""
    if config.codec == "loopback":
        return LoopbackCodec()
    assert config.mimi is not None
    if config.codec == "rustymimi":
        from workers.codec.rustymimi_codec import RustymimiCodec

        return RustymimiCodec(config.stage, config.mimi, config.slots, config.max_call_s, codebooks_of(config))
    library, codebooks = library_for(config.codec), codebooks_of(config)
    codec = make_codec(config.stage, library, config.mimi, config.slots, config.threads, codebooks)
    codec.warm()
    return codec


def codebooks_of(config: WorkerConfig) -> int:
    """Return how many codes a frame has: all that there are from the encoder where the caller's words are wanted."""
    return SPEECH_CODEBOOKS if config.transcribe and config.stage is Stage.ENCODE else CODEBOOKS


def make_codec(
    stage: Stage, library: Library, mimi: Path, slots: int, threads: int = 1, codebooks: int = CODEBOOKS
) -> Mimi:
    """Return the encoder or decoder for `slots` calls, with the weights in the file `mimi`. Raises WeightsError.

    `threads` share the rows of a step; only numpy uses more than one.
    """
    weights = load(stage, mimi, codebooks)
    if library == "mlx":
        from workers.codec.mlx_step import MlxStep

        codec = Mimi(stage, MlxStep(stage, weights, slots))
    else:
        from workers.codec.numpy_step import NumpyStep

        codec = Mimi(stage, NumpyStep(stage, weights, slots, threads))
    give_back_freed_memory()
    return codec
