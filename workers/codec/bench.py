"""Our step against rustymimi on the same file and in the same run: `python -m workers.codec.bench FILE`.

Each measurement is a process of its own (`bench_one`). The paths take turns at each number of rows, so that a machine
whose speed drifts is as unfair to one as to the other. Then encoder and decoder run side by side, a thread each, as two
workers of the service do: how many calls hold the 80 ms of a frame is read from that.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from workers.codec.bench_one import Case, CodecTime
from workers.codec.choose import fastest_library
from workers.codec.prepare import load_decoder, load_encoder
from workers.codec.weights import weight_bytes
from workers.messages import FRAME_S

ROWS = (1, 2, 4, 8, 16)
THREADS = (1, 2)
RUSTYMIMI_MOST_ROWS = 2
"""Its time and memory are proportional to the rows: beyond these it is only waited for."""
_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS")
_DIRECTIONS = ("encode", "decode")


@dataclass(frozen=True, slots=True)
class CodecRow:
    """One line: what was measured and how long a frame of all rows took.

    `side_by_side`: while the other direction ran too, with as many rows. `ratio`: calls a second against rustymimi's
    one call on one thread, None where that was not measured.
    """

    case: Case
    side_by_side: bool
    time: CodecTime
    ratio: float | None


@dataclass(frozen=True, slots=True)
class CodecFigures:
    """All of it. `read_gb_s` is how fast one thread reads memory, `floor_ms` what reading a direction's weights takes
    at that, `calls` how many calls hold the 80 ms, both directions side by side, by the slower one's p95."""

    rows: list[CodecRow]
    read_gb_s: float
    weights_mb: dict[str, float]
    floor_ms: dict[str, float]
    calls: int


def bench_codec(
    mimi: Path, rows: Sequence[int] = ROWS, threads: Sequence[int] = THREADS, frames: int = 40
) -> CodecFigures:
    """Measure rustymimi and every path that this machine would use, on Mimi's weights in the file `mimi`."""
    read_gb_s = _read_gb_s()
    weights_mb = {"encode": weight_bytes(load_encoder(mimi)) / 1e6, "decode": weight_bytes(load_decoder(mimi)) / 1e6}
    alone = [(case, False, _measured(case)) for case in _cases(mimi, rows, threads, frames)]
    together = [measured for count in rows for measured in _side_by_side(mimi, count, frames)]
    floor_ms = {direction: megabytes / read_gb_s for direction, megabytes in weights_mb.items()}
    return CodecFigures(with_ratios([*alone, *together]), read_gb_s, weights_mb, floor_ms, calls_held(together))


def _cases(mimi: Path, rows: Sequence[int], threads: Sequence[int], frames: int) -> Iterator[Case]:
    paths = ["rustymimi", "numpy", *(["mlx"] if fastest_library() == "mlx" else [])]
    for count in rows:
        for path in paths:
            for thread in threads if path != "mlx" else (1,):
                if path != "rustymimi" or count <= RUSTYMIMI_MOST_ROWS:
                    yield from (Case(path, way, count, thread, frames, str(mimi)) for way in _DIRECTIONS)


Measured = tuple[Case, bool, CodecTime]


def _side_by_side(mimi: Path, rows: int, frames: int) -> list[Measured]:
    cases = [Case(fastest_library(), way, rows, 1, 3 * frames, str(mimi)) for way in _DIRECTIONS]
    running = [_started(case) for case in cases]
    return [(case, True, _answer(process)) for case, process in zip(cases, running, strict=True)]


def _started(case: Case) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "workers.codec.bench_one", json.dumps(asdict(case))]
    environment = os.environ | dict.fromkeys(_THREAD_SETTINGS, str(case.threads))
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _answer(process: subprocess.Popen[str]) -> CodecTime:
    answer = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"a measurement ended with {process.returncode}")
    return CodecTime(**json.loads(answer))


def _measured(case: Case) -> CodecTime:
    return _answer(_started(case))


def with_ratios(measured: Sequence[Measured]) -> list[CodecRow]:
    """Put every measurement beside rustymimi's one call on one thread."""
    official = {
        case.direction: taken.p50_ms
        for case, _, taken in measured
        if (case.path, case.rows, case.threads) == ("rustymimi", 1, 1)
    }
    ratios = (
        case.rows * official[case.direction] / taken.p50_ms if case.direction in official else None
        for case, _, taken in measured
    )
    return [CodecRow(*row, ratio) for row, ratio in zip(measured, ratios, strict=True)]


def calls_held(together: Sequence[Measured]) -> int:
    """Return how many calls hold the 80 ms, between the numbers measured as if time grew evenly."""
    slower: dict[int, float] = {}
    for case, _, taken in together:
        slower[case.rows] = max(slower.get(case.rows, 0), taken.p95_ms)
    rows = sorted(slower)
    times = np.interp(range(1, rows[-1] + 1), rows, [slower[row] for row in rows])
    return int((times <= FRAME_S * 1e3).sum())


def _read_gb_s() -> float:
    """Return how fast one thread reads memory that is in no cache."""
    array = np.ones(1 << 26, np.float32)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        array.max()
        best = max(best, array.nbytes / (time.perf_counter() - started) / 1e9)
    return best


def table(figures: CodecFigures) -> str:
    """Return the figures for a terminal."""
    lines = ["path       rows threads  direction  p50 ms  p95 ms  CPU ms   ×rustymimi  MiB a call"]
    for row in figures.rows:
        case, taken, ratio = row.case, row.time, f"{row.ratio:.1f}" if row.ratio else ""
        way = f"{case.direction}{' +' if row.side_by_side else ''}"
        lines.append(
            f"{case.path:10} {case.rows:4} {case.threads:7}  {way:9} {taken.p50_ms:7.1f} {taken.p95_ms:7.1f} "
            f"{taken.cpu_ms:7.1f} {ratio:>12} {taken.call_mib:11.1f}"
        )
    floors = ", ".join(f"{way} {figures.weights_mb[way]:.0f} MB {figures.floor_ms[way]:.1f} ms" for way in _DIRECTIONS)
    lines.append(f"+: while the other direction runs too; {figures.calls} calls hold 80 ms so")
    lines.append(f"one thread reads {figures.read_gb_s:.0f} GB/s; to read the weights takes: {floors}")
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for; print the table, and write the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mimi", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    figures = bench_codec(asked.mimi, asked.rows, asked.threads, asked.frames)
    print(table(figures))
    if asked.json:
        asked.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
