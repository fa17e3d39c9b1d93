"""Asks a process that may import MLX what it computes on and what a checkpoint takes."""

import json
import subprocess
import sys
from typing import Any

from app.config import Settings

WITHIN_S = 120


def survey_device() -> dict[str, Any]:
    """Return what MLX computes on: the first keys of `workers/survey.py`."""
    return _ask({})


def survey_checkpoint(settings: Settings) -> dict[str, Any]:
    model = settings.model
    sizes = {"quantize": model.quantize_bits, "slots": settings.calls.slots, "context": model.context}
    names = {"checkpoint": model.checkpoint, "lora": model.lora, "cache": str(model.cache), "codec": model.codec}
    names["transcribe"] = settings.transcribe
    return _ask({**names, **sizes})


def _ask(question: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "workers.survey"]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": WITHIN_S, "check": False}
    try:
        run = subprocess.run(command, input=json.dumps(question), **options)
    except subprocess.TimeoutExpired:
        return {"mlx_error": f"no answer within {WITHIN_S} s"}
    if run.returncode:
        return {"mlx_error": (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer
