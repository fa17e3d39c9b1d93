"""`python -m workers.transcriber.bench`: a step of speech-to-text, and Moshi's with and without it beside, as JSON.

Moshi steps every 80 ms, as in calls; the transcriber, a process of its own that gives way as the real one does, steps
as many rows as often. Turns of some seconds with and without it, so that a machine whose speed drifts is as unfair to
both.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from workers.checkpoints.files import report_nothing
from workers.checkpoints.locate import locate, locate_stt
from workers.messages import CODEBOOKS, CODES, FRAME_S, SPEECH_CODEBOOKS, Slot
from workers.worker import NICENESS

TURNS = 4
WARM_UP_STEPS = 10


def _codes(rows: int, codebooks: int) -> dict[Slot, np.ndarray[tuple[int], np.dtype[np.int32]]]:
    codes = np.random.default_rng(0).integers(0, CODES, (rows, codebooks)).astype(np.int32)
    return {Slot(row): frame for row, frame in enumerate(codes)}


def _transcriber_step(spec: str, cache: Path, rows: int) -> Callable[[], object]:
    from workers.transcriber.checkpoint import load_speech
    from workers.transcriber.transcriber import Transcriber

    transcriber = Transcriber(load_speech(locate_stt(spec, cache, report_nothing))[0], rows)
    codes = _codes(rows, SPEECH_CODEBOOKS)
    for slot in codes:
        transcriber.open(slot)
    return lambda: transcriber.step(codes)


def _moshi_step(spec: str, cache: Path, rows: int) -> Callable[[], object]:
    from workers.engine.checkpoint import load
    from workers.engine.engine import Engine

    engine = Engine(load(locate(spec, cache, report_nothing)), rows)
    codes = _codes(rows, CODEBOOKS)
    for slot in codes:
        engine.open(slot, seed=slot)
    return lambda: engine.step(codes)


def _times_s(step: Callable[[], object], steps: int, every_s: float) -> list[float]:
    """Return the seconds that each step took; one begins every `every_s`, or when the one before is done."""
    times, began = [], time.perf_counter()
    for number in range(steps):
        time.sleep(max(0.0, began + number * every_s - time.perf_counter()))
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return times


@contextmanager
def _beside(spec: str, cache: Path, rows: int) -> Iterator[None]:
    """Let a transcriber step all rows every 80 ms in another process, warm when the block begins."""
    options = ["--beside", "--rows", str(rows), "--transcribe", spec, "--cache", str(cache)]
    command = [sys.executable, "-m", "workers.transcriber.bench", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def _summary(times_s: Sequence[float]) -> dict[str, float]:
    p50, p99 = (float(value) * 1e3 for value in np.percentile(times_s, [50, 99]))
    return {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


def measure(moshi: str, transcribe: str, cache: Path, rows: int, steps: int) -> dict[str, object]:
    """Return the times of steps of so many rows."""
    speech = _transcriber_step(transcribe, cache, rows)
    _times_s(speech, WARM_UP_STEPS, 0.0)
    back_to_back = _times_s(speech, steps, 0.0)
    step = _moshi_step(moshi, cache, rows)
    _times_s(step, WARM_UP_STEPS, 0.0)
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(TURNS):
        alone += _times_s(step, steps // TURNS, FRAME_S)
        with _beside(transcribe, cache, rows):
            beside += _times_s(step, steps // TURNS, FRAME_S)
    return {
        "rows": rows,
        "transcriber": _summary(back_to_back),
        "moshi_alone": _summary(alone),
        "moshi_beside_transcriber": _summary(beside),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default="synthetic:random")
    parser.add_argument("--transcribe", default="synthetic:stt:random")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 8, 16))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--beside", action="store_true", help="step a transcriber until killed")
    args = parser.parse_args()
    if args.beside:
        os.nice(NICENESS)
        step = _transcriber_step(args.transcribe, args.cache, args.rows[0])
        step()
        print("warm", flush=True)
        _times_s(step, 1 << 30, FRAME_S)
    found = [measure(args.checkpoint, args.transcribe, args.cache, rows, args.steps) for rows in args.rows]
    json.dump({"checkpoint": args.checkpoint, "transcribe": args.transcribe, "times": found}, sys.stdout)


if __name__ == "__main__":
    main()
