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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from workers.codec.choose import fastest_library, library_for, make_decoder, make_encoder
from workers.messages import CODEBOOKS, CODES, FRAME_S, FRAME_SAMPLES, Slot

ROWS = (1, 2, 4, 8, 16)
THREADS = (1, 2)
RUSTYMIMI_MOST_ROWS = 2
"""Its time and memory are proportional to the rows: more take only time."""
_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_DIRECTIONS = ("encode", "decode")
_WARM_UP_FRAMES = 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """What to measure: `path` numpy, mlx or rustymimi; `direction` encode or decode; all rows advance in each frame.

    A frame begins every `every_s` seconds, or as soon as the one before is done.
    """

    path: str
    direction: str
    rows: int
    threads: int
    frames: int
    mimi: str
    every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CodecTime:
    """Times of one frame of all rows, in milliseconds: `cpu_ms` is what all threads used.

    `process_mib` is the whole process at the end, `call_mib` what each further call adds.
    """

    p50_ms: float
    p95_ms: float
    cpu_ms: float
    process_mib: float
    call_mib: float


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


def measure(case: Case) -> CodecTime:
    """Make the codec and time it, in this process."""
    process = psutil.Process()
    empty = process.memory_info().rss
    step, call_bytes = (_rustymimi if case.path == "rustymimi" else _ours)(case)
    for _ in range(_WARM_UP_FRAMES):
        step()
    before, times = process.cpu_times(), []
    began = time.perf_counter()
    for frame in range(case.frames):
        time.sleep(max(0.0, began + frame * case.every_s - time.perf_counter()))
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    after, full = process.cpu_times(), process.memory_info().rss
    cpu_s = after.user + after.system - before.user - before.system
    p50, p95 = (float(value) for value in np.percentile(times, [50, 95]) * 1e3)
    call_mib = (call_bytes or (full - empty) / case.rows) / _MIB
    return CodecTime(p50, p95, cpu_s * 1e3 / case.frames, full / _MIB, call_mib)


def _inputs(case: Case) -> Any:
    """Return a frame of noise, or random codes, for each row."""
    random = np.random.default_rng(0)
    if case.direction == "encode":
        return random.standard_normal((case.rows, FRAME_SAMPLES), np.float32) * np.float32(0.1)
    return random.integers(0, CODES, (case.rows, CODEBOOKS), np.int32)


def _ours(case: Case) -> tuple[Callable[[], object], int]:
    library, mimi = library_for(case.path), Path(case.mimi)
    frames = {Slot(row): frame for row, frame in enumerate(_inputs(case))}
    if case.direction == "encode":
        encoder = make_encoder(library, mimi, case.rows, case.threads)
        return lambda: encoder.encode(frames), encoder.bytes_per_call
    decoder = make_decoder(library, mimi, case.rows, case.threads)
    return lambda: decoder.decode(frames), decoder.bytes_per_call


def _rustymimi(case: Case) -> tuple[Callable[[], object], int]:
    """Rows in turn, each with a `Tokenizer`; with two threads, two at a time."""
    import rustymimi

    def step(row: int) -> object:
        if case.direction == "encode":
            return tokenizers[row].encode_step(inputs[row][None, None])
        return tokenizers[row].decode_step(inputs[row].astype(np.uint32)[None, :, None])

    tokenizers = [rustymimi.Tokenizer(case.mimi, num_codebooks=CODEBOOKS) for _ in range(case.rows)]
    inputs, pool = _inputs(case), ThreadPoolExecutor(case.threads)
    return lambda: list(pool.map(step, range(case.rows))), 0


def start_measurement(case: Case) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "workers.codec.bench", "--one", json.dumps(asdict(case))]
    environment = os.environ | dict.fromkeys(_THREAD_SETTINGS, str(case.threads)) | {"MLX_ENABLE_TF32": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _answer(process: "subprocess.Popen[str]") -> CodecTime:
    answer = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"a measurement ended with {process.returncode}")
    return CodecTime(**json.loads(answer))


def bench_codec(mimi: Path, rows: Sequence[int], threads: Sequence[int], frames: int) -> CodecFigures:
    """Measure rustymimi and every library that this machine would use, on Mimi's weights in the file `mimi`."""
    cases = _cases(mimi, rows, threads, frames)
    alone = [CodecRow(case, False, _answer(start_measurement(case))) for case in cases]
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
    running = [start_measurement(case) for case in cases]
    return [CodecRow(case, True, _answer(process)) for case, process in zip(cases, running, strict=True)]


def with_ratios(rows: Sequence[CodecRow]) -> list[CodecRow]:
    """Return the rows with their ratios to rustymimi's one call on one thread."""
    reference = ("rustymimi", 1, 1)
    measured = [row for row in rows if (row.case.path, row.case.rows, row.case.threads) == reference]
    official = {row.case.direction: row.time.p50_ms for row in measured}

    def ratio(row: CodecRow) -> float | None:
        p50_ms = official.get(row.case.direction)
        return row.case.rows * p50_ms / row.time.p50_ms if p50_ms else None

    return [replace(row, ratio=ratio(row)) for row in rows]


def calls_held(together: Sequence[CodecRow]) -> int:
    """Return how many calls hold the 80 ms, interpolating between the numbers measured."""
    slower: dict[int, float] = {}
    for row in together:
        slower[row.case.rows] = max(slower.get(row.case.rows, 0), row.time.p95_ms)
    counts = sorted(slower)
    times = np.interp(range(1, counts[-1] + 1), counts, [slower[count] for count in counts])
    return int((times <= FRAME_S * 1e3).sum())


def table(figures: CodecFigures) -> str:
    lines = ["path       rows threads  direction  p50 ms  p95 ms  CPU ms   ×rustymimi  MiB a call"]
    for row in figures.rows:
        case, took, ratio = row.case, row.time, f"{row.ratio:.1f}" if row.ratio else ""
        way = f"{case.direction}{' +' if row.side_by_side else ''}"
        lines.append(
            f"{case.path:10} {case.rows:4} {case.threads:7}  {way:9} {took.p50_ms:7.1f} {took.p95_ms:7.1f} "
            f"{took.cpu_ms:7.1f} {ratio:>12} {took.call_mib:11.1f}"
        )
    lines.append(f"+: while the other direction runs too; {figures.calls} calls hold 80 ms so")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mimi", type=Path, nargs="?")
    parser.add_argument("--one", help="a case in JSON")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(asdict(measure(Case(**json.loads(args.one))))))
        return
    figures = bench_codec(args.mimi, args.rows, args.threads, args.frames)
    print(table(figures))
    if args.json:
        args.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
