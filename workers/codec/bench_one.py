"""One measurement, in a process of its own: `python -m workers.codec.bench_one JSON`, which answers in JSON.

Memory, threads and the state of a heap are a process's; measured one after the other in one process, the codecs would
spoil each other's figures.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from workers.codec.choose import Library, make_decoder, make_encoder
from workers.messages import CODEBOOKS, CODES, FRAME_SAMPLES, Slot

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


def measure(case: Case) -> CodecTime:
    """Make the codec and time it."""
    process = psutil.Process()
    empty = process.memory_info().rss
    step, call_bytes = (_rustymimi if case.path == "rustymimi" else _ours)(case)
    for _ in range(_WARM_UP_FRAMES):
        step()
    before = process.cpu_times()
    times = _timed(step, case.frames, case.every_s)
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
    library: Library = "mlx" if case.path == "mlx" else "numpy"
    mimi, frames = Path(case.mimi), {Slot(row): frame for row, frame in enumerate(_inputs(case))}
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


def _timed(step: Callable[[], object], frames: int, every_s: float) -> list[float]:
    """Return the seconds of each frame."""
    times = []
    began = time.perf_counter()
    for frame in range(frames):
        time.sleep(max(0.0, began + frame * every_s - time.perf_counter()))
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
