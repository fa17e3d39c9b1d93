"""`moshi-bridge bench engine`: the batched step against the official `LmGen`, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.cli.bench.output import write_json
from app.config import Settings
from workers.messages import FRAME_S


def bench_engine(
    settings: Settings, rows: tuple[int, ...], json_path: Path | None, full: bool, **options: object
) -> int:
    """Measure, with `options` of `workers.engine.bench_command`; `full`: every KV cache is full from the start."""
    options = {"cache": settings.model.cache, "quantize": settings.model.quantize_bits, **options}
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    flags = ["--full"] if full else []
    command = [sys.executable, "-m", "workers.engine.bench_command", *given, *flags, "--rows", *map(str, rows)]
    console = Console()
    with console.status(f"stepping {options['checkpoint']} with {', '.join(map(str, rows))} rows …"):
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        return run.returncode
    figures: dict[str, Any] = json.loads(run.stdout)
    console.print(_table(figures))
    write_json(json_path, figures)
    return 0


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=f"{figures['checkpoint']} on {figures['machine']['device']}")
    for heading in ("calls", "step p50", "step p99", "calls in real time", "against the official"):
        table.add_column(heading, justify="right")
    for time in figures["times"]:
        calls = str(time["rows"]) if time["rows"] else "official, 1"
        in_time = f"{time['steps_per_s'] * FRAME_S:.1f}"
        table.add_row(calls, f"{time['p50_ms']:.2f} ms", f"{time['p99_ms']:.2f} ms", in_time, f"{time['ratio']:.2f}×")
    return table
