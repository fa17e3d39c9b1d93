"""Which library computes Mimi's step."""

import sys
from pathlib import Path
from typing import Literal

from workers.codec.calls import Decoder, Encoder, Step
from workers.codec.prepare import load_decoder, load_encoder
from workers.codec.weights import DecoderWeights, EncoderWeights
from workers.gc_freeze import give_back_freed_memory

Library = Literal["numpy", "mlx"]


def fastest_library(platform: str = sys.platform) -> Library:
    """Return what suits this machine: MLX on CUDA, else numpy.

    A Mac has a GPU too, but the engine needs all of it: numpy computes on its processors with Apple's Accelerate.
    """
    return "mlx" if platform != "darwin" and _has_cuda() else "numpy"


def library_for(codec: str) -> Library:
    """Return the library that CODEC names; `auto` is the fastest. Raises ValueError."""
    match codec:
        case "mlx" | "numpy":
            return codec
        case "auto":
            return fastest_library()
        case _:
            raise ValueError(f"no library computes CODEC={codec}")


def make_encoder(library: Library, mimi: Path, slots: int, threads: int = 1) -> Encoder:
    """Return the caller's direction for `slots` calls, with the weights in the file `mimi`. Raises WeightsError.

    `threads` share the rows of a step; they are numpy's alone.
    """
    encoder = Encoder(_step(library, load_encoder(mimi), slots, threads))
    give_back_freed_memory()
    return encoder


def make_decoder(library: Library, mimi: Path, slots: int, threads: int = 1) -> Decoder:
    """Return Moshi's direction for `slots` calls, otherwise as `make_encoder`."""
    decoder = Decoder(_step(library, load_decoder(mimi), slots, threads))
    give_back_freed_memory()
    return decoder


def _step(library: Library, weights: EncoderWeights | DecoderWeights, slots: int, threads: int) -> Step:
    if library == "mlx":
        from workers.codec.mlx_step import MlxStep

        return MlxStep(weights, slots)
    from workers.codec.numpy_step import NumpyStep

    return NumpyStep(weights, slots, threads)


def _has_cuda() -> bool:
    try:
        import mlx.core as mx
    except ImportError:
        return False
    return bool(mx.cuda.is_available())
