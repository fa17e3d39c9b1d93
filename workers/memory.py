"""How much memory the service will take, asked before it is taken."""

import sys

import psutil

_GIB = 1 << 30
_RUSTYMIMI_BYTES_A_SLOT = 2 * 345 << 20
"""Two rustymimi tokenizers, measured."""
_CODEC_BYTES = 2 * 165 << 20
_CODEC_BYTES_A_SLOT = 16 << 20
"""Our own codec's weights and a call's state, both directions."""


class MemoryShort(Exception):
    """The machine has too little memory for this configuration."""


def available_bytes() -> int:
    """Memory a new process could take. A Mac counts what it can page out, so there it is three quarters of it all."""
    memory = psutil.virtual_memory()
    return int(memory.total * 0.75) if sys.platform == "darwin" else int(memory.available)


def codec_bytes(slots: int, codec: str) -> int:
    """Memory that the codec takes for `slots` calls."""
    match codec:
        case "loopback":
            return 0
        case "rustymimi":
            return slots * _RUSTYMIMI_BYTES_A_SLOT
        case _:
            return _CODEC_BYTES + slots * _CODEC_BYTES_A_SLOT


def require_memory(weights_bytes: int, ring_bytes: int, slots: int, codec: str, available: int) -> None:
    """Raise MemoryShort unless weights, KV rings and codecs fit into `available` bytes."""
    codecs = codec_bytes(slots, codec)
    needed = weights_bytes + ring_bytes + codecs
    if needed > available:
        raise MemoryShort(
            f"MAX_CALLS={slots} needs {needed / _GIB:.1f} GiB (weights {weights_bytes / _GIB:.1f}, "
            f"attention {ring_bytes / _GIB:.1f}, codec {codecs / _GIB:.1f}) but {available / _GIB:.1f} GiB are "
            "free: lower MAX_CALLS, set MOSHI_QUANTIZE=4, or choose a smaller MOSHI_CHECKPOINT"
        )
