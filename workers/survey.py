"""`python -m workers.survey`: what MLX runs on and what a checkpoint would take, as JSON, for who may not ask MLX.

Reads checkpoint, cache, quantize, slots and codec as JSON from standard input. Nothing is downloaded, no weights are
loaded.
"""

import json
import sys
from pathlib import Path
from typing import Any

from workers.checkpoint_files import CheckpointError, Files, files_in, locate
from workers.memory import available_bytes, codec_bytes


def main() -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    answer: dict[str, Any] = {"available_bytes": available_bytes(), **_device()}
    answer["codec_bytes"] = codec_bytes(question["slots"], question["codec"])
    try:
        files = _local_files(question["checkpoint"], Path(question["cache"]), question["quantize"])
        answer |= _size(files, question["quantize"], question["slots"]) if files else {"checkpoint": "not downloaded"}
    except CheckpointError as error:
        answer["checkpoint_error"] = str(error)
    json.dump(answer, sys.stdout)


def _device() -> dict[str, str]:
    try:
        import mlx.core as mx
    except ImportError as error:
        return {"mlx_error": str(error)}
    return {"device": str(mx.default_device())}


def _local_files(spec: str, cache: Path, quantize: int | None) -> Files | None:
    if not spec.startswith("hf:"):
        return locate(spec, cache, lambda *_: None, quantize)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repo = spec.removeprefix("hf:").removeprefix("//")
    try:
        return files_in(Path(snapshot_download(repo, local_files_only=True)), spec, quantize)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT={spec}: not a repository name; write hf://owner/repo") from error


def _size(files: Files, quantize: int | None, slots: int) -> dict[str, Any]:
    from workers.engine.checkpoint import config_of
    from workers.engine.memory import number_bytes, ring_bytes, weights_bytes

    return {
        "checkpoint": str(files.model),
        "weights_bytes": weights_bytes(files, quantize),
        "ring_bytes": ring_bytes(config_of(files), slots, item_bytes=number_bytes(files)),
    }


if __name__ == "__main__":
    main()
