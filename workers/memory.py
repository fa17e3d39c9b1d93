"""How much memory there is, and how much the service will take, computed beforehand."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil

MOST_CALLS = 64
_GIB = 1 << 30
_RUSTYMIMI_BYTES_A_CALL = 2 * 345 << 20
"""Two rustymimi tokenizers, measured."""
_CODEC_BYTES = 2 * 165 << 20
_CODEC_BYTES_A_CALL = 16 << 20
"""Our own codec's weights and a call's state, both directions."""
_METAL_SHARE = 2 / 3
"""The share of a Mac's memory that its GPU may use where Metal does not say; Metal's own figure is 2/3 or 3/4."""
_CONTEXT_STEP, _SHORTEST_CONTEXT = 25, 250
"""Steps of 80 ms: a shorter context is advised in units of 2 s, and not below 20 s."""


class MemoryShort(Exception):
    """There is too little memory for this configuration; the message is one line that says what to set."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that the service may take: `device` for weights and KV cache, `ram` for the codec.

    `shared`: the device has no memory of its own (a CPU, Apple silicon), so that both together must fit into `ram` too.
    """

    device: int
    ram: int
    shared: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What `calls` calls that remember `context` steps take.

    `weights` and `kv_step` (one step of one call in the KV cache) are bytes; `codec` is what computes Mimi: numpy, mlx,
    rustymimi or loopback; `quantised` weights are quantised already.
    """

    weights: int
    kv_step: int
    codec: str
    calls: int
    context: int
    quantised: bool = False

    @property
    def kv_cache(self) -> int:
        return self.calls * self.context * self.kv_step

    @property
    def codecs(self) -> int:
        return codec_bytes(self.calls, self.codec)

    @property
    def on_device(self) -> int:
        return self.weights + self.kv_cache + (self.codecs if self.codec == "mlx" else 0)

    def in_ram(self, memory: Memory) -> int:
        if memory.shared:
            return self.weights + self.kv_cache + self.codecs
        return 0 if self.codec == "mlx" else self.codecs

    def fits(self, memory: Memory, share: float = 1.0) -> bool:
        return self.on_device <= share * memory.device and self.in_ram(memory) <= share * memory.ram

    def most_calls(self, memory: Memory, share: float = 1.0) -> int:
        """Return how many calls of this context fit, 0 to 64."""
        counts = range(MOST_CALLS, 0, -1)
        return next((calls for calls in counts if replace(self, calls=calls).fits(memory, share)), 0)

    def longest_context(self, memory: Memory) -> int:
        """Return the longest context with which so many calls fit, 0 if it would be too short to talk."""
        contexts = range(self.context - self.context % _CONTEXT_STEP, _SHORTEST_CONTEXT - 1, -_CONTEXT_STEP)
        return next((context for context in contexts if replace(self, context=context).fits(memory)), 0)

    def shortage(self, memory: Memory) -> str:
        """Return what is missing and what to set, in one line; "" when it fits."""
        if self.fits(memory):
            return ""
        parts = f"weights {_gib(self.weights)}, KV cache {_gib(self.kv_cache)}, codec {_gib(self.codecs)}"
        if self.on_device > memory.device:
            needed, present = self.on_device, f"{_gib(memory.device)} GiB are free for the device"
        else:
            needed, present = self.in_ram(memory), f"{_gib(memory.ram)} GiB of RAM are free"
        return f"MAX_CALLS={self.calls} needs {_gib(needed)} GiB ({parts}) but {present}: {self.advice(memory)}"

    def advice(self, memory: Memory) -> str:
        calls, context = self.most_calls(memory), self.longest_context(memory)
        ways = [f"MAX_CALLS={calls}"] if calls else []
        ways += [f"CONTEXT={context}"] if context else []
        ways += [] if self.quantised else ["MOSHI_QUANTIZE=4"]
        return ", or ".join([*(f"set {way}" for way in ways), "choose a smaller MOSHI_CHECKPOINT"])


def memory_of(info: Mapping[str, str | int], total: int, available: int) -> Memory:
    """Return the memory of a computer whose MLX device is described by `info`, the mapping of `mx.device_info()`.

    `total` and `available` are the computer's RAM. Keys, by MLX's backend: Metal `memory_size` and
    `max_recommended_working_set_size`, which MLX allocates beyond only by paging; CUDA `total_memory` and
    `free_memory`, the card's own; the CPU has none of them.
    """
    if "max_recommended_working_set_size" in info or "memory_size" in info:
        size = int(info.get("memory_size") or total)
        return Memory(int(info.get("max_recommended_working_set_size") or size * _METAL_SHARE), size, shared=True)
    if "total_memory" in info:
        return Memory(int(info.get("free_memory", info["total_memory"])), available, shared=False)
    return Memory(available, available, shared=True)


def ram() -> tuple[int, int]:
    """Return the computer's RAM and what of it a new process could take. macOS pages out for it, so there it is all."""
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.total if sys.platform == "darwin" else memory.available)


def codec_bytes(calls: int, codec: str) -> int:
    match codec:
        case "loopback":
            return 0
        case "rustymimi":
            return calls * _RUSTYMIMI_BYTES_A_CALL
        case _:
            return _CODEC_BYTES + calls * _CODEC_BYTES_A_CALL


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"
