"""`python -m scripts.check_device`: everything that needs a card or a Mac, in under eight minutes.

    memory    what MLX reports of its device
    tokens    compiled and quantised steps and the attention's window give the tokens of the CPU (tiny)
    q4, bf16  the 7B of random weights at 1, 2, 4 … 64 calls with full KV caches: p50 and p99 against 80 ms,
              and how many calls are planned
    codec     Mimi on the processors and on the device
    pipeline  simulated calls through the whole service, the codec beside the engine

Each section is a process of its own with a time limit. Its findings are in the file when it ends, also by a crash or a
kill. `--dry-run` takes tiny sizes and needs no device.
"""

import argparse
import asyncio
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
from itertools import product
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from app.cli.doctor.survey import survey_device
from workers.checkpoints.synthetic import make_synthetic
from workers.codec.bench import Case, start_measurement
from workers.processors import usable_processors

ENGINE = [sys.executable, "-m", "scripts.device_engine"]
SELF = [sys.executable, "-m", "scripts.check_device"]
Found = dict[str, Any]
CACHE = Path("~/.cache/moshi-bridge").expanduser()


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is: `rows` of the engine; `calls` and `libraries` of the codec and the pipeline."""

    size: str
    rows: tuple[int, ...]
    steps: int
    calls: tuple[int, ...]
    frames: int
    checkpoint: str
    seconds: float
    libraries: tuple[str, ...]


REAL = Scale("full", (1, 2, 4, 8, 16, 32, 64), 60, (1, 8), 100, "synthetic:random:full:q4", 20, ("numpy", "mlx"))
DRY = Scale("tiny", (1, 2), 5, (1,), 5, "synthetic:random:tiny:f32", 5, ("numpy",))


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
    if asked.section:
        for found in {"codec": check_codec, "pipeline": check_pipeline}[asked.section](scale):
            print(json.dumps(found), flush=True)
        return 0
    if not asked.dry_run and not survey_device().get("is_gpu"):
        print("MLX has no GPU here: take a Mac, or make setup ACCELERATOR=cuda13; or --dry-run", file=sys.stderr)
        return 2
    return check(sections(asked.dry_run), asked.json, asked.dry_run)


def sections(dry_run: bool) -> list[Section]:
    """Return what is checked, in this order; the limits make 7 min 40 s together, four times as much in a dry run."""
    scale, flag, patience = (DRY, ["--dry-run"], 4) if dry_run else (REAL, [], 1)
    sizes = ["--size", scale.size, "--rows", *map(str, scale.rows), "--steps", str(scale.steps)]
    return [
        Section("memory", [*ENGINE, "memory"], 20 * patience),
        Section("tokens", [*ENGINE, "tokens", "--steps", "40"], 60 * patience),
        Section("q4", [*ENGINE, "engine", *sizes, "--weights", "q4"], 80 * patience),
        Section("bf16", [*ENGINE, "engine", *sizes, "--weights", "bf16"], 80 * patience),
        Section("codec", [*SELF, "--section", "codec", *flag], 80 * patience),
        Section("pipeline", [*SELF, "--section", "pipeline", *flag], 140 * patience),
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
    started_s, status = time.monotonic(), ""
    with _temporary() as output, _temporary() as errors:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors}
        process = subprocess.Popen(section.command, env={**os.environ, **exact}, start_new_session=True, **streams)
        try:
            process.wait(section.limit_s)
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:  # a section with everything that it started
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        found, complaints = _lines(output), _lines(errors)
    if not status and process.returncode:
        status = complaints[-1] if complaints else f"exit status {process.returncode}"
    return {
        "status": status or "done",
        "found": [json.loads(line) for line in found if line.startswith("{") and line.endswith("}")],
        "seconds": round(time.monotonic() - started_s, 1),
    }


def check_codec(scale: Scale) -> Iterator[Found]:
    """Both directions side by side, as fast as they can."""
    mimi = next(make_synthetic("random", CACHE).glob("tokenizer*.safetensors"))
    threads = max(1, usable_processors() // 3)
    for calls, path in product(scale.calls, scale.libraries):
        cases = [Case(path, direction, calls, threads, scale.frames, str(mimi)) for direction in ("encode", "decode")]
        for case, process in [(case, start_measurement(case)) for case in cases]:
            said = process.communicate()[0]
            found = json.loads(said) if said else {"failed": f"exit status {process.returncode}"}
            yield {"what": f"{case.direction} on {path}, {calls} calls", **found}


def check_pipeline(scale: Scale) -> Iterator[Found]:
    """Place simulated calls to a service of our own, with each library computing the codec."""
    for codec in scale.libraries:
        yield asyncio.run(_calls(scale, codec))


async def _calls(scale: Scale, codec: str) -> Found:
    from app.cli.bench.calls import Load, speech
    from app.cli.bench.line import measure_calls
    from app.cli.service_process import start_service

    count = scale.calls[-1]
    environment = {"MOSHI_CHECKPOINT": scale.checkpoint, "CODEC": codec, "ENGINE": "mlx", "MAX_CALLS": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        async with start_service(environment, Path(folder) / "service.log") as service:
            calls = await measure_calls(service, Load(speech(scale.seconds), count), echoes=False)
    return {
        "what": f"{count} calls of {scale.seconds:.0f} s, {scale.checkpoint}, codec on {codec}",
        "first_sound_ms": calls.callers.first_sound_ms,
        "frames": calls.service.frames,
        "frames_dropped": calls.service.frames_dropped,
        "underruns_settled": calls.callers.underruns_settled,
        **{f"{stage}_p99_ms": time.p99_ms for stage, time in calls.service.stages.items()},
    }


def _temporary() -> IO[str]:
    return tempfile.TemporaryFile("w+", errors="replace")


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().strip().splitlines()


def _machine() -> Found:
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "processors": usable_processors(),
        **{name: importlib.metadata.version(name) for name in ("mlx", "numpy", "moshi-mlx")},
    }


def _table(report: dict[str, Any]) -> Table:
    table = Table("section", "what", "figures", title=report["machine"]["platform"])
    for name, result in report["sections"].items():
        table.add_row(name, f"{result['status']}, {result['seconds']} s", "", style="bold")
        for found in result["found"]:
            figures = {name: value for name, value in found.items() if name != "what"}
            shown = [
                f"{name} {f'{value:.1f}' if isinstance(value, float) else value}" for name, value in figures.items()
            ]
            table.add_row("", found["what"], ", ".join(shown))
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes; no device needed")
    parser.add_argument("--json", type=Path, default=Path("check_device.json"), help="where the figures go")
    parser.add_argument("--section", choices=["codec", "pipeline"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
