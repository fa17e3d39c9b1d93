"""Our codec against rustymimi on the same file and in the same run: `python -m workers.codec.bench FILE`.

Each measurement is a process of its own (`bench_one`). The codecs take turns at each number of rows, so that a machine
whose speed drifts is as unfair to one as to the other. Then encoder and decoder run side by side, a thread each, as two
workers of the service do: from that is read how many calls hold the 80 ms of a frame.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from workers.codec.bench_one import Case, CodecTime
from workers.codec.choose import fastest_library
from workers.messages import FRAME_S

ROWS = (1, 2, 4, 8, 16)
THREADS = (1, 2)
RUSTYMIMI_MOST_ROWS = 2
"""Its time and memory are proportional to the rows: more take only time."""
_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS")
_DIRECTIONS = ("encode", "decode")


@dataclass(frozen=True, slots=True)
class CodecRow:
    """What was measured and how long a frame of all rows took.

    `side_by_side`: while the other direction ran too, with as many rows. `ratio`: calls a second against rustymimi's
    one call on one thread, None where that was not measured.
    """

    case: Case
    side_by_side: bool
    time: CodecTime
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class CodecFigures:
    """All rows; `calls` is how many calls hold the 80 ms, both directions side by side, by the slower one's p95."""

    rows: list[CodecRow]
    calls: int


def bench_codec(
    mimi: Path, rows: Sequence[int] = ROWS, threads: Sequence[int] = THREADS, frames: int = 40
) -> CodecFigures:
    """Measure rustymimi and every library that this machine would use, on Mimi's weights in the file `mimi`."""
    alone = [CodecRow(case, False, _answer(_start(case))) for case in _cases(mimi, rows, threads, frames)]
    together = [row for count in rows for row in _side_by_side(mimi, count, frames)]
    return CodecFigures(with_ratios([*alone, *together]), calls_held(together))


def _cases(mimi: Path, rows: Sequence[int], threads: Sequence[int], frames: int) -> Iterator[Case]:
    paths = ["rustymimi", "numpy", *(["mlx"] if fastest_library() == "mlx" else [])]
    for count in rows:
        for path in paths:
            for thread in threads if path != "mlx" else (1,):
                if path != "rustymimi" or count <= RUSTYMIMI_MOST_ROWS:
                    yield from (Case(path, way, count, thread, frames, str(mimi)) for way in _DIRECTIONS)


def _side_by_side(mimi: Path, rows: int, frames: int) -> list[CodecRow]:
    cases = [Case(fastest_library(), way, rows, 1, 3 * frames, str(mimi)) for way in _DIRECTIONS]
    running = [_start(case) for case in cases]
    return [CodecRow(case, True, _answer(process)) for case, process in zip(cases, running, strict=True)]


def _start(case: Case) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "workers.codec.bench_one", json.dumps(asdict(case))]
    environment = os.environ | dict.fromkeys(_THREAD_SETTINGS, str(case.threads))
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _answer(process: subprocess.Popen[str]) -> CodecTime:
    answer = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"a measurement ended with {process.returncode}")
    return CodecTime(**json.loads(answer))


def with_ratios(rows: Sequence[CodecRow]) -> list[CodecRow]:
    """Return the rows with their ratios to rustymimi's one call on one thread."""
    reference = ("rustymimi", 1, 1)
    official = {
        row.case.direction: row.time.p50_ms
        for row in rows
        if (row.case.path, row.case.rows, row.case.threads) == reference
    }

    def ratio(row: CodecRow) -> float | None:
        p50_ms = official.get(row.case.direction)
        return row.case.rows * p50_ms / row.time.p50_ms if p50_ms else None

    return [CodecRow(row.case, row.side_by_side, row.time, ratio(row)) for row in rows]


def calls_held(together: Sequence[CodecRow]) -> int:
    """Return how many calls hold the 80 ms, interpolating between the numbers measured."""
    slower: dict[int, float] = {}
    for row in together:
        slower[row.case.rows] = max(slower.get(row.case.rows, 0), row.time.p95_ms)
    counts = sorted(slower)
    times = np.interp(range(1, counts[-1] + 1), counts, [slower[count] for count in counts])
    return int((times <= FRAME_S * 1e3).sum())


def table(figures: CodecFigures) -> str:
    """Return the figures for a terminal."""
    lines = ["path       rows threads  direction  p50 ms  p95 ms  CPU ms   ×rustymimi  MiB a call"]
    for row in figures.rows:
        case, time, ratio = row.case, row.time, f"{row.ratio:.1f}" if row.ratio else ""
        way = f"{case.direction}{' +' if row.side_by_side else ''}"
        lines.append(
            f"{case.path:10} {case.rows:4} {case.threads:7}  {way:9} {time.p50_ms:7.1f} {time.p95_ms:7.1f} "
            f"{time.cpu_ms:7.1f} {ratio:>12} {time.call_mib:11.1f}"
        )
    lines.append(f"+: while the other direction runs too; {figures.calls} calls hold 80 ms so")
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for; print the table, and write the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mimi", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = bench_codec(args.mimi, args.rows, args.threads, args.frames)
    print(table(figures))
    if args.json:
        args.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
