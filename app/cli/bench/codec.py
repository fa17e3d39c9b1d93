"""`moshi-bridge bench codec`: our Mimi against rustymimi, each measurement in a process of its own."""

import subprocess
import sys
from pathlib import Path

from app.config import Settings
from workers.checkpoints.synthetic import make_standin

WEIGHTS = "random"


def bench_codec(
    settings: Settings, rows: tuple[int, ...], threads: tuple[int, ...], frames: int, json_path: Path | None
) -> int:
    """Measure on random weights of the real shape; return the exit status."""
    try:
        mimi = next(make_standin(WEIGHTS, settings.model.cache).glob("tokenizer*.safetensors"))
    except OSError as error:
        print(f"moshi-bridge: CACHE_DIR={settings.model.cache} cannot be written ({error})", file=sys.stderr)
        return 2
    numbers = ["--rows", *map(str, rows), "--threads", *map(str, threads), "--frames", str(frames)]
    files = ["--json", str(json_path)] if json_path else []
    command = [sys.executable, "-m", "workers.codec.bench", str(mimi), *numbers, *files]
    return subprocess.run(command, check=False).returncode
