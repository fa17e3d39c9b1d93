"""Which codec CODEC means, and which library computes it."""

import sys
from pathlib import Path
from typing import Literal

from workers.codec.codec import Decoder, Encoder, LoopbackCodec
from workers.codec.mimi import MimiDecoder, MimiEncoder, MimiStep
from workers.codec.weights import Weights, load_decoder, load_encoder
from workers.gc_freeze import give_back_freed_memory
from workers.messages import WorkerConfig

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


def codec_name(config: WorkerConfig) -> str:
    """Return what computes the codec, for log lines."""
    return config.codec if config.codec in ("loopback", "rustymimi") else f"Mimi on {library_for(config.codec)}"


def open_encoder(config: WorkerConfig) -> Encoder:
    """Return the warm encoder for all slots. Raises WeightsError."""
    if config.codec == "loopback":
        return LoopbackCodec()
    assert config.mimi is not None
    if config.codec == "rustymimi":
        from workers.codec.rustymimi_codec import RustymimiEncoder

        return RustymimiEncoder(config.mimi, config.slots, config.max_call_s)
    encoder = make_encoder(library_for(config.codec), config.mimi, config.slots, config.threads)
    encoder.warm()
    return encoder


def open_decoder(config: WorkerConfig) -> Decoder:
    """Return the warm decoder for all slots. Raises WeightsError."""
    if config.codec == "loopback":
        return LoopbackCodec()
    assert config.mimi is not None
    if config.codec == "rustymimi":
        from workers.codec.rustymimi_codec import RustymimiDecoder

        return RustymimiDecoder(config.mimi, config.slots, config.max_call_s)
    decoder = make_decoder(library_for(config.codec), config.mimi, config.slots, config.threads)
    decoder.warm()
    return decoder


def make_encoder(library: Library, mimi: Path, slots: int, threads: int = 1) -> MimiEncoder:
    """Return the caller's direction for `slots` calls, with the weights in the file `mimi`. Raises WeightsError.

    `threads` share the rows of a step; only numpy uses more than one.
    """
    encoder = MimiEncoder(_step(library, load_encoder(mimi), slots, threads))
    give_back_freed_memory()
    return encoder


def make_decoder(library: Library, mimi: Path, slots: int, threads: int = 1) -> MimiDecoder:
    """Return Moshi's direction for `slots` calls, otherwise as `make_encoder`."""
    decoder = MimiDecoder(_step(library, load_decoder(mimi), slots, threads))
    give_back_freed_memory()
    return decoder


def _step(library: Library, weights: Weights, slots: int, threads: int) -> MimiStep:
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
