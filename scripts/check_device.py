"""`python -m scripts.check_device`: everything that needs a card or a Mac, in under eight minutes.

    memory    what memory MLX reports, and how many calls of the 7B are planned with it
    tokens    compiled and quantised steps and the attention's window give the tokens of the CPU (tiny)
    q4, bf16  the 7B of random weights at 1, 2, 4 … 64 calls with full KV caches: p50 and p99 against 80 ms
    codec     Mimi on the processors and on the device, alone and beside a running engine
    pipeline  simulated calls through the whole service

Each section is a process of its own with a time limit. Its findings are in the file when it ends, also by a crash or a
kill. `--dry-run` takes tiny sizes and needs no device.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.cli.doctor.survey import survey_device
from scripts.device_sections import DEVICE_CHECK, DRY, REAL, Found, check_codec, check_pipeline
from workers.processors import usable_processors

SELF = [sys.executable, "-m", "scripts.check_device"]


@dataclass(frozen=True, slots=True)
class Section:
    """One part: its command, and after how many seconds it is ended."""

    name: str
    command: list[str]
    limit_s: float


def main() -> int:
    """Run all sections, or as a section's process that one; return the exit status."""
    asked = _arguments()
    scale = DRY if asked.dry_run else REAL
    match asked.section:
        case "codec":
            return _print(check_codec(scale))
        case "pipeline":
            return _print(check_pipeline(scale))
        case _ if asked.dry_run or survey_device().get("is_gpu"):
            return check(sections(asked.dry_run), asked.json, asked.dry_run)
        case _:
            print("MLX has no GPU here: take a Mac, or make setup ACCELERATOR=cuda13; or --dry-run", file=sys.stderr)
            return 2


def sections(dry_run: bool) -> list[Section]:
    """Return what is checked, in this order; the limits make 7 min 40 s together."""
    scale, flag = (DRY, ["--dry-run"]) if dry_run else (REAL, [])
    sizes = ["--size", scale.size, "--rows", *map(str, scale.rows), "--steps", str(scale.steps)]
    return [
        Section("memory", [*DEVICE_CHECK, "memory"], 20),
        Section("tokens", [*DEVICE_CHECK, "tokens", "--steps", "40"], 60),
        Section("q4", [*DEVICE_CHECK, "engine", *sizes, "--weights", "q4"], 80),
        Section("bf16", [*DEVICE_CHECK, "engine", *sizes, "--weights", "bf16"], 80),
        Section("codec", [*SELF, "--section", "codec", *flag], 80),
        Section("pipeline", [*SELF, "--section", "pipeline", *flag], 140),
    ]


def check(wanted: Sequence[Section], path: Path, dry_run: bool) -> int:
    """Run the sections, write `path` after each, print the table; return 0 if all went well."""
    console = Console()
    report: dict[str, Any] = {"machine": _machine(), "dry_run": dry_run, "sections": {}}
    for section in wanted:
        console.print(f"{section.name} …", highlight=False)
        report["sections"][section.name] = run_section(section)
        path.write_text(json.dumps(report, indent=2) + "\n")
    console.print(_table(report))
    console.print(f"All of it: {path}", highlight=False)
    every = report["sections"].values()
    well = all(one["status"] == "done" and all(found.get("equal", True) for found in one["found"]) for one in every)
    return 0 if well else 1


def run_section(section: Section) -> dict[str, Any]:
    """Run a section; return its findings, seconds and status: done, out of time, or its last complaint."""
    exact = {"MLX_ENABLE_TF32": "0"} if section.name == "tokens" else {}
    started_s, in_time = time.monotonic(), True
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors}
        with subprocess.Popen(
            section.command, env={**os.environ, **exact}, start_new_session=True, **streams
        ) as process:
            try:
                process.wait(section.limit_s)
            except subprocess.TimeoutExpired:
                in_time = False
            finally:  # a section with everything that it started
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        found, complaints = _lines(output), _lines(errors)
    why = complaints[-1] if complaints else f"exit status {process.returncode}"
    return {
        "status": "out of time" if not in_time else why if process.returncode else "done",
        "found": [json.loads(line) for line in found if line.startswith("{") and line.endswith("}")],
        "seconds": round(time.monotonic() - started_s, 1),
    }


def _lines(file: Any) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").strip().splitlines()  # type: ignore[no-any-return]


def _print(every: Iterator[Found]) -> int:
    for found in every:
        print(json.dumps(found), flush=True)
    return 0


def _machine() -> Found:
    versions = {name: importlib.metadata.version(name) for name in ("mlx", "numpy", "moshi-mlx")}
    machine = {"platform": platform.platform(), "python": platform.python_version()}
    return {**machine, "processors": usable_processors(), **versions}


def _table(report: dict[str, Any]) -> Table:
    table = Table("section", "what", "figures", title=report["machine"]["platform"])
    for name, result in report["sections"].items():
        table.add_row(name, f"{result['status']}, {result['seconds']} s", "", style="bold")
        for found in result["found"]:
            table.add_row("", found["what"], ", ".join(_figure(key, found[key]) for key in found if key != "what"))
    return table


def _figure(name: str, value: object) -> str:
    return f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes; no device needed")
    parser.add_argument("--json", type=Path, default=Path("check_device.json"), help="where the figures go")
    parser.add_argument("--section", choices=["codec", "pipeline"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
