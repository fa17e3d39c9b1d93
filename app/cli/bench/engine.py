"""`moshi-bridge bench engine`: the batched step against the official `LmGen`, in a process of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.config import Settings


@dataclass(frozen=True, slots=True)
class EngineBench:
    """What to measure; `context` None is the checkpoint's own, with `full` every ring is full from the first step."""

    checkpoint: str
    rows: tuple[int, ...]
    steps: int
    context: int | None = None
    full: bool = False


def bench_engine(settings: Settings, bench: EngineBench, json_path: Path | None) -> int:
    """Run, print the table, write the file; return the exit status."""
    console = Console()
    with console.status(f"stepping {bench.checkpoint} with {', '.join(map(str, bench.rows))} rows …"):
        run = subprocess.run(_command(settings, bench), stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        return run.returncode
    figures: dict[str, Any] = json.loads(run.stdout)
    console.print(_table(figures))
    if json_path:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _command(settings: Settings, bench: EngineBench) -> list[str]:
    options: dict[str, object] = {
        "--checkpoint": bench.checkpoint,
        "--cache": settings.cache,
        "--steps": bench.steps,
        "--context": bench.context,
        "--quantize": settings.quantize_bits,
    }
    flags = ["--full"] if bench.full else []
    given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    return [sys.executable, "-m", "workers.engine.bench", *given, *flags, "--rows", *map(str, bench.rows)]


def _table(figures: dict[str, Any]) -> Table:
    machine = figures["machine"]
    table = Table(title=f"{figures['checkpoint']} on {machine['device']}")
    for heading in ("calls", "step p50", "step p99", "calls in real time", "against the official"):
        table.add_column(heading, justify="right")
    for time in figures["times"]:
        calls = str(time["rows"]) if time["rows"] else "official, 1"
        in_time = f"{time['steps_per_s'] / 12.5:.1f}"
        table.add_row(calls, f"{time['p50_ms']:.2f} ms", f"{time['p99_ms']:.2f} ms", in_time, f"{time['ratio']:.2f}×")
    return table
