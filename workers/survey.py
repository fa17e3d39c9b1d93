"""`python -m workers.survey`: what MLX runs on and what a checkpoint would take, as JSON, for who may not ask MLX.

Standard input is `{}` or a JSON object with checkpoint, lora, cache, quantize, slots (0: as many as fit), context,
codec and transcribe ("" for no transcriber). Nothing is downloaded, no weights are loaded. The answer has

    device, device_name, is_gpu     what MLX computes on; instead `mlx_error` when MLX cannot be imported
    device_bytes, ram_bytes         what weights and KV cache, and what the codec may take
    checkpoint, on_device, in_ram   the model's file and what the calls take; `checkpoint` alone when it is not here yet
    takes_prompts                   whether personas may have a prompt and a voice
    calls                           how many: `slots`, or as many as fit
    shortage                        what is missing and what to set, "" when it fits
    checkpoint_error                why the checkpoint cannot be used
    transcribe                      the transcriber's file, or "not downloaded" (it is not counted then), "" for none
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.checkpoints.download import cached
from workers.checkpoints.files import SETTING, CheckpointError, Files, files_in, lora_in, report_nothing
from workers.checkpoints.locate import locate, locate_stt

if TYPE_CHECKING:
    from workers.engine.memory import Memory

Locate = Callable[..., Files]


def main() -> None:
    json.dump(_answer(json.load(sys.stdin)), sys.stdout)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    try:
        import mlx.core as mx

        from workers.engine.memory import device_memory
    except ImportError as error:
        return {"mlx_error": str(error)}
    device, memory = mx.default_device(), device_memory()
    return {
        "device": str(device),
        "device_name": str(mx.device_info().get("device_name", "")),
        "is_gpu": device.type == mx.gpu,
        "device_bytes": memory.device,
        "ram_bytes": memory.ram,
        **(_checkpoint(question, memory) if question else {}),
    }


def _checkpoint(question: dict[str, Any], memory: "Memory") -> dict[str, Any]:
    from workers.engine.config import takes_prompts
    from workers.engine.memory import plan
    from workers.engine.start import AUTO_MEMORY_SHARE

    slots, quantize = question["slots"], question["quantize"]
    try:
        cache = Path(question["cache"])
        files = _local_files(question["checkpoint"], cache, quantize, locate, SETTING)
        if files is None:
            return {"checkpoint": "not downloaded"}
        wanted_speech = question["transcribe"]
        speech = _local_files(wanted_speech, cache, quantize, locate_stt, "TRANSCRIBE") if wanted_speech else None
        if question["lora"] and not question["lora"].startswith("hf:"):
            lora_in(Path(question["lora"]).expanduser(), question["lora"])
        wanted = plan(files, quantize, question["codec"], slots or 1, question["context"], speech)
        has_prompts = takes_prompts(files)
    except CheckpointError as error:
        return {"checkpoint_error": str(error)}
    wanted = replace(wanted, calls=slots or wanted.most_calls(memory, AUTO_MEMORY_SHARE) or 1)
    return {
        "checkpoint": str(files.model),
        "on_device": wanted.on_device,
        "in_ram": wanted.in_ram(memory),
        "takes_prompts": has_prompts,
        "calls": wanted.calls,
        "transcribe": str(speech.model) if speech else "not downloaded" if wanted_speech else "",
        "shortage": wanted.shortage(memory),
    }


def _local_files(spec: str, cache: Path, quantize: int | None, find: Locate, setting: str) -> Files | None:
    if not spec.startswith("hf:"):
        return find(spec, cache, report_nothing, quantize)
    folder = cached(spec.removeprefix("hf:").removeprefix("//"), setting)
    return files_in(folder, spec, quantize, setting) if folder else None


if __name__ == "__main__":
    main()
