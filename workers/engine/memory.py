"""How much memory there is, and how much calls take on a checkpoint: computed before anything is loaded."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import mlx.core as mx
import psutil
from moshi_mlx.models import LmConfig

from workers.checkpoints.files import Files
from workers.checkpoints.header import TensorInfo
from workers.codec.choose import library_for
from workers.engine.checkpoint import GROUP_SIZES
from workers.engine.config import config_of, model_header, takes_prompts
from workers.transcriber.config import speech_config, speech_header

MOST_CALLS = 64
PROMPT_STEPS = 3_000
"""How many steps of prompts are kept at most, as many as a call of the published Moshi remembers."""
MLX_CACHE_BYTES = 256 << 20
"""What MLX may retain of freed memory on a Mac; shapes are fixed, so more would never be used."""
_GIB = 1 << 30
_RUSTYMIMI_BYTES_A_CALL = 2 * 345 << 20
"""Two rustymimi tokenizers, measured."""
_CODEC_BYTES = (2 * 165 << 20) + (8 << 20)
_CODEC_BYTES_A_CALL = 16 << 20
"""Our own codec's weights, with the encoder's spare row, and a call's state, both directions."""
_MORE_CODEBOOKS_BYTES = 24 * 6 << 20
"""The encoder's codebooks that only the transcriber reads, measured: entries, and what gives the distance to each."""
_METAL_SHARE = 2 / 3
"""The share of a Mac's memory that its GPU may use where Metal does not say; Metal's own figure is 2/3 or 3/4."""
_CONTEXT_STEP, _SHORTEST_CONTEXT = 25, 250
"""Steps of 80 ms: a shorter context is advised in units of 2 s, and not below 20 s."""


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
    rustymimi or loopback; `quantised` weights are quantised already. `prompts` are the bytes of the prompts that are
    kept. The transcriber takes `speech` bytes for its weights and `speech_call` for each call, 0 without one.
    """

    weights: int
    kv_step: int
    codec: str
    calls: int
    context: int
    quantised: bool = False
    prompts: int = 0
    speech: int = 0
    speech_call: int = 0

    @property
    def transcriber(self) -> int:
        return self.speech + self.calls * self.speech_call

    @property
    def kv_cache(self) -> int:
        return self.calls * self.context * self.kv_step

    @property
    def codecs(self) -> int:
        match self.codec:
            case "loopback":
                return 0
            case "rustymimi":
                return self.calls * _RUSTYMIMI_BYTES_A_CALL + _RUSTYMIMI_BYTES_A_CALL // 2
            case _:
                more = _MORE_CODEBOOKS_BYTES if self.speech else 0
                return _CODEC_BYTES + more + self.calls * _CODEC_BYTES_A_CALL

    @property
    def on_device(self) -> int:
        codecs = self.codecs if self.codec == "mlx" else 0
        return self.weights + self.kv_cache + self.prompts + self.transcriber + codecs

    def in_ram(self, memory: Memory) -> int:
        codecs = 0 if self.codec == "mlx" else self.codecs
        return codecs + self.on_device if memory.shared else codecs

    def fits(self, memory: Memory, share: float = 1.0) -> bool:
        return self.on_device <= share * memory.device and self.in_ram(memory) <= share * memory.ram

    def most_calls(self, memory: Memory, share: float = 1.0) -> int:
        """Return how many calls of this context fit, 0 to 64."""
        counts = range(MOST_CALLS, 0, -1)
        return next((calls for calls in counts if replace(self, calls=calls).fits(memory, share)), 0)

    def shortage(self, memory: Memory) -> str:
        """Return what is missing and what to set, in one line; "" when it fits."""
        if self.fits(memory):
            return ""
        prompts = f"prompts {_gib(self.prompts)}, " if self.prompts else ""
        prompts += f"transcriber {_gib(self.transcriber)}, " if self.speech else ""
        parts = f"weights {_gib(self.weights)}, KV cache {_gib(self.kv_cache)}, {prompts}codec {_gib(self.codecs)}"
        if self.on_device > memory.device:
            needed, present = self.on_device, f"{_gib(memory.device)} GiB are free for the device"
        else:
            needed, present = self.in_ram(memory), f"{_gib(memory.ram)} GiB of RAM are free"
        return f"MAX_CALLS={self.calls} needs {_gib(needed)} GiB ({parts}) but {present}: {self._advice(memory)}"

    def _advice(self, memory: Memory) -> str:
        contexts = range(self.context - self.context % _CONTEXT_STEP, _SHORTEST_CONTEXT - 1, -_CONTEXT_STEP)
        longest = next((context for context in contexts if replace(self, context=context).fits(memory)), 0)
        calls = self.most_calls(memory)
        ways = [f"set MAX_CALLS={calls}"] if calls else []
        ways += [f"set CONTEXT={longest}"] if longest else []
        ways += [] if self.quantised else ["set MOSHI_QUANTIZE=4"]
        ways += ["set TRANSCRIBE=off"] if self.speech else []
        return ", or ".join([*ways, "choose a smaller MOSHI_CHECKPOINT"])


def plan(
    files: Files,
    quantize: int | None,
    codec: str,
    calls: int,
    context: int | None = None,
    speech: Files | None = None,
) -> Plan:
    """Return what so many calls on a checkpoint take, with the speech-to-text `speech`; `codec` is CODEC.

    Raises CheckpointError.
    """
    tensors, config = model_header(files), config_of(files)
    kv_step = kv_step_bytes(config, tensors["out_norm.weight"].item_bytes)  # of the type that is never quantised
    quantised = any(name.endswith(".scales") for name in tensors)
    weights = _weight_bytes(tensors, quantize)
    library = codec if codec in ("loopback", "rustymimi") else library_for(codec)
    context = context or int(config.transformer.context)
    prompts = PROMPT_STEPS * kv_step if takes_prompts(files) else 0
    sizes = _speech_bytes(speech, quantize) if speech else (0, 0)
    return Plan(weights, kv_step, library, calls, context, quantised or quantize is not None, prompts, *sizes)


def _speech_bytes(files: Files, quantize: int | None) -> tuple[int, int]:
    """Return the bytes of the transcriber's weights, and of what it keeps of a call."""
    tensors, config = speech_header(files), speech_config(files).lm
    kv_step = kv_step_bytes(config, tensors["out_norm.weight"].item_bytes)
    return _weight_bytes(tensors, quantize), kv_step * int(config.transformer.context)


def _weight_bytes(tensors: Mapping[str, TensorInfo], quantize: int | None) -> int:
    """Return what the weights take in memory; those that are not quantised are quantised to so many bits."""
    bits = None if any(name.endswith(".scales") for name in tensors) else quantize
    return sum(_quantised_bytes(tensor, bits) if bits else tensor.nbytes for tensor in tensors.values())


def kv_step_bytes(config: LmConfig, item_bytes: int = 2) -> int:
    """Return the bytes of the keys and values of one step of one call; `item_bytes` is 2 for bf16, 4 for f32."""
    return 2 * int(config.transformer.num_layers) * int(config.transformer.d_model) * item_bytes


def _quantised_bytes(tensor: TensorInfo, bits: int) -> int:
    """Return what a tensor takes once quantised, with two numbers of its own type (scale and bias) a group."""
    group = GROUP_SIZES[bits]
    if len(tensor.shape) != 2 or tensor.shape[-1] % group:
        return tensor.nbytes
    return tensor.size * bits // 8 + 2 * tensor.nbytes // group


def device_memory() -> Memory:
    """Return the memory of this computer and of the device that MLX computes on; macOS pages out for a new process."""
    memory = psutil.virtual_memory()
    return memory_of(mx.device_info(), memory.total, memory.total if sys.platform == "darwin" else memory.available)


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


def wired_limit(active: int, info: Mapping[str, str | int]) -> int:
    """Return how many bytes MLX should keep resident of `active`, 0 where it cannot.

    Only Metal wires memory, and MLX refuses more than `max_recommended_working_set_size` (`mx.set_wired_limit`).
    """
    return min(active, int(info.get("max_recommended_working_set_size", 0)))


def keep_resident() -> None:
    """On a Mac keep weights and KV cache resident, and nothing else: macOS takes back what is idle for a second."""
    if limit := wired_limit(mx.get_active_memory(), mx.device_info()):
        mx.set_cache_limit(MLX_CACHE_BYTES)
        mx.set_wired_limit(limit)


def device_bytes() -> int:
    """Return the bytes that MLX holds for arrays that are in use, wherever they are."""
    return mx.get_active_memory()


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"
