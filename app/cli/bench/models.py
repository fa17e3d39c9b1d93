"""`moshi-bridge bench engine` and `bench codec`: ours against the official ones, in a process that may load models."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.cli.bench.output import write_json
from app.cli.options import EXIT_SETTINGS, fail
from app.config import Settings
from workers.checkpoints.synthetic import make_synthetic
from workers.messages import FRAME_S


def bench_engine(settings: Settings, rows: Sequence[int], json_path: Path | None, options: dict[str, Any]) -> int:
    """Measure, with `options` of `workers.engine.bench`; return the exit status."""
    given = {"cache": settings.model.cache, "quantize": settings.model.quantize_bits, "rows": rows, **options}
    command = [sys.executable, "-m", "workers.engine.bench", *_arguments(given)]
    console = Console()
    with console.status(f"stepping {options['checkpoint']} with {', '.join(map(str, rows))} rows …"):
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode == 0:
        figures = json.loads(run.stdout)
        console.print(_table(figures))
        for part in ("prompts", "prefill"):
            for name, value in figures[part].items():
                console.print(f"{part}: {name} {value:.2f}")
        write_json(json_path, figures)
    return run.returncode


def bench_codec(settings: Settings, options: Mapping[str, object], json_path: Path | None) -> int:
    """Measure random weights of the real shape, with `options` of `workers.codec.bench`; return the exit status."""
    try:
        mimi = next(make_synthetic("random", settings.model.cache).glob("tokenizer*.safetensors"))
    except OSError as error:
        return fail(f"CACHE_DIR={settings.model.cache} cannot be written ({error})", EXIT_SETTINGS)
    arguments = _arguments({**options, "json": json_path})
    return subprocess.run([sys.executable, "-m", "workers.codec.bench", str(mimi), *arguments], check=False).returncode


def _arguments(options: Mapping[str, object]) -> Iterator[str]:
    """Yield options for a command line; None and False are left out."""
    for name, value in options.items():
        if value is None or value is False:
            continue
        yield f"--{name}"
        if value is not True:
            yield from map(str, value if isinstance(value, tuple) else (value,))


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=f"{figures['checkpoint']} on {figures['machine']['device']}")
    for heading in ("calls", "step p50", "step p99", "calls in real time", "against the official"):
        table.add_column(heading, justify="right")
    for time in figures["times"]:
        calls = str(time["rows"]) if time["rows"] else "official, 1"
        in_time = f"{time['steps_per_s'] * FRAME_S:.1f}"
        table.add_row(calls, f"{time['p50_ms']:.2f} ms", f"{time['p99_ms']:.2f} ms", in_time, f"{time['ratio']:.2f}×")
    return table
