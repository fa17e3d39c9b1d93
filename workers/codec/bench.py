"""Our codec against rustymimi on the same file and in the same run: `python -m workers.codec.bench FILE`.

Each measurement is a process of its own (`--one CASE`, in JSON): memory, threads and the state of a heap are a
process's. The codecs take turns at each number of rows, so that a machine whose speed drifts is as unfair to one as to
the other. Then encoder and decoder run side by side, a thread each, as two workers of the service do: from that is read
how many calls hold the 80 ms of a frame.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import psutil

from workers.codec.choose import fastest_library, library_for, make_codec
from workers.messages import CODEBOOKS, CODES, FRAME_S, FRAME_SAMPLES, Slot, Stage

RUSTYMIMI_MOST_ROWS = 2
"""Its time and memory are proportional to the rows: more take only time."""
_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_DIRECTIONS = ("encode", "decode")
_WARM_UP_FRAMES = 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """What to measure: `path` numpy, mlx or rustymimi; `direction` encode or decode; all rows advance in each frame."""

    path: str
    direction: str
    rows: int
    threads: int
    frames: int
    mimi: str


@dataclass(frozen=True, slots=True)
class CodecTime:
    """Times of one frame of all rows; `cpu_ms` is what all threads used; `call_mib` what each further call adds."""

    p50_ms: float
    p95_ms: float
    cpu_ms: float
    process_mib: float
    call_mib: float


@dataclass(slots=True)
class CodecRow:
    """`side_by_side`: while the other direction ran too, with as many rows.

    `ratio`: calls a second against rustymimi's one call on one thread, None where that was not measured.
    """

    case: Case
    side_by_side: bool
    time: CodecTime
    ratio: float | None = None


def measure(case: Case) -> CodecTime:
    """Make the codec and time it, in this process."""
    process = psutil.Process()
    empty = process.memory_info().rss
    step, call_bytes = _codec(case)
    for _ in range(_WARM_UP_FRAMES):
        step()
    before, times = process.cpu_times(), []
    for _ in range(case.frames):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    after, full = process.cpu_times(), process.memory_info().rss
    cpu_s = after.user + after.system - before.user - before.system
    p50, p95 = (float(value) for value in np.percentile(times, [50, 95]) * 1e3)
    call_mib = (call_bytes or (full - empty) / case.rows) / _MIB
    return CodecTime(p50, p95, cpu_s * 1e3 / case.frames, full / _MIB, call_mib)


def _codec(case: Case) -> tuple[Callable[[], object], int]:
    """Return a step of all rows, noise or random codes, and the bytes a call (0: to be measured).

    rustymimi's rows take turns, with two threads two at a time.
    """
    random, mimi, stage = np.random.default_rng(0), Path(case.mimi), Stage(case.direction)
    if stage is Stage.ENCODE:
        inputs = random.standard_normal((case.rows, FRAME_SAMPLES), np.float32) * np.float32(0.1)
    else:
        inputs = random.integers(0, CODES, (case.rows, CODEBOOKS), np.int32)
    frames = {Slot(row): frame for row, frame in enumerate(inputs)}
    if case.path != "rustymimi":
        ours = make_codec(stage, library_for(case.path), mimi, case.rows, case.threads)
        return lambda: ours.run(frames), ours.bytes_per_call
    from workers.codec.rustymimi_codec import RustymimiCodec

    reference = RustymimiCodec(stage, mimi, case.rows, (_WARM_UP_FRAMES + case.frames) * FRAME_S)
    pool = ThreadPoolExecutor(case.threads)
    return lambda: list(pool.map(lambda one: reference.run(dict([one])), frames.items())), 0


def start_measurement(case: Case) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "workers.codec.bench", "--one", json.dumps(asdict(case))]
    environment = os.environ | dict.fromkeys(_THREAD_SETTINGS, str(case.threads)) | {"MLX_ENABLE_TF32": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _measured(*cases: Case) -> Iterator[CodecRow]:
    """Measure these cases at the same time, each in its process."""
    running = [start_measurement(case) for case in cases]
    for case, process in zip(cases, running, strict=True):
        answer = process.communicate()[0]
        if process.returncode:
            raise RuntimeError(f"a measurement ended with {process.returncode}")
        yield CodecRow(case, len(cases) > 1, CodecTime(**json.loads(answer)))


def _all_measured(mimi: str, rows: Sequence[int], threads: Sequence[int], frames: int) -> Iterator[CodecRow]:
    """Measure rustymimi and every library that this machine would use; then both directions side by side."""
    paths = [("rustymimi", number) for number in threads] + [("numpy", number) for number in threads]
    paths += [("mlx", 1)] if fastest_library() == "mlx" else []
    for count, (path, number), way in product(rows, paths, _DIRECTIONS):
        if path != "rustymimi" or count <= RUSTYMIMI_MOST_ROWS:
            yield from _measured(Case(path, way, count, number, frames, mimi))
    for count in rows:
        yield from _measured(*(Case(fastest_library(), way, count, 1, 3 * frames, mimi) for way in _DIRECTIONS))


def set_ratios(rows: Sequence[CodecRow]) -> None:
    """Set the rows' ratios to rustymimi's one call on one thread."""
    reference = ("rustymimi", 1, 1)
    measured = [row for row in rows if (row.case.path, row.case.rows, row.case.threads) == reference]
    official = {row.case.direction: row.time.p50_ms for row in measured}
    for row in rows:
        if p50_ms := official.get(row.case.direction):
            row.ratio = row.case.rows * p50_ms / row.time.p50_ms


def calls_held(rows: Sequence[CodecRow]) -> int:
    """Return how many calls hold the 80 ms side by side, by the slower direction's p95, interpolated."""
    together = [row for row in rows if row.side_by_side]
    counts = sorted({row.case.rows for row in together})
    slower = [max(row.time.p95_ms for row in together if row.case.rows == count) for count in counts]
    times = np.interp(range(1, counts[-1] + 1), counts, slower)
    return int((times <= FRAME_S * 1e3).sum())


def table(rows: Sequence[CodecRow]) -> str:
    lines = ["path       rows threads  direction  p50 ms  p95 ms  CPU ms   ×rustymimi  MiB a call"]
    for row in rows:
        case, took, ratio = row.case, row.time, f"{row.ratio:.1f}" if row.ratio else ""
        way = f"{case.direction}{' +' if row.side_by_side else ''}"
        lines.append(
            f"{case.path:10} {case.rows:4} {case.threads:7}  {way:9} {took.p50_ms:7.1f} {took.p95_ms:7.1f} "
            f"{took.cpu_ms:7.1f} {ratio:>12} {took.call_mib:11.1f}"
        )
    lines.append(f"+: while the other direction runs too; {calls_held(rows)} calls hold 80 ms so")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mimi", nargs="?")
    parser.add_argument("--one", help="a case in JSON")
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 2, 4, 8, 16))
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(asdict(measure(Case(**json.loads(args.one))))))
        return
    rows = list(_all_measured(args.mimi, args.rows, args.threads, args.frames))
    set_ratios(rows)
    print(table(rows))
    if args.json:
        figures = {"rows": [asdict(row) for row in rows], "calls": calls_held(rows)}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
