"""Which codec stands behind CODEC."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from workers.codec.error import CodecError
from workers.codec.loopback import LoopbackCodec
from workers.messages import FRAME_SAMPLES, CodeArray, Payload, Pcm, Slot, WorkerConfig


class Codec(Protocol):
    """One direction for a number of calls."""

    def open(self, slot: Slot) -> None:
        """Begin a new call in a slot; nothing of the last one remains."""

    def close(self, slot: Slot) -> None:
        """The call in this slot is over: the time for what `open` should not have to wait for."""


class Encoder(Codec, Protocol):
    """The caller's direction."""

    def encode(self, frames: Mapping[Slot, Pcm]) -> Mapping[Slot, Payload | CodecError]:
        """Return the codes of the next frame of each slot named, or the error with which its call must end."""


class Decoder(Codec, Protocol):
    """Moshi's direction."""

    def decode(self, codes: Mapping[Slot, CodeArray]) -> Mapping[Slot, Pcm | CodecError]:
        """Return the next frame of each slot named, or the error with which its call must end."""


def open_encoder(config: WorkerConfig) -> Encoder:
    """Return the encoder for all slots. Raises WeightsError."""
    if config.codec == "loopback":
        return LoopbackCodec()
    assert config.mimi is not None
    if config.codec == "rustymimi":
        from workers.codec.mimi import MimiEncoder

        return MimiEncoder(config.mimi, config.slots, config.max_call_s)
    from workers.codec.choose import library_for, make_encoder

    encoder = make_encoder(library_for(config.codec), config.mimi, config.slots, config.threads)
    encoder.warm()
    return encoder


def open_decoder(config: WorkerConfig) -> Decoder:
    """Return the decoder for all slots. Raises WeightsError."""
    if config.codec == "loopback":
        return LoopbackCodec()
    assert config.mimi is not None
    if config.codec == "rustymimi":
        from workers.codec.mimi import MimiDecoder

        return MimiDecoder(config.mimi, config.slots, config.max_call_s)
    from workers.codec.choose import library_for, make_decoder

    decoder = make_decoder(library_for(config.codec), config.mimi, config.slots, config.threads)
    decoder.warm()
    return decoder


def codec_name(config: WorkerConfig) -> str:
    """Return what computes Mimi, in words."""
    if config.codec in ("loopback", "rustymimi"):
        return config.codec
    from workers.codec.choose import library_for

    return f"Mimi on {library_for(config.codec)}"


def silence_codes(encoder: Encoder, slot: Slot, frames: int) -> Payload:
    """Encode digital silence as a call begins, shape (frames, 8); uses a slot that is free and leaves it so."""
    encoder.open(slot)
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    codes = np.array([encoder.encode({slot: silence})[slot] for _ in range(frames)])
    encoder.close(slot)
    return codes
