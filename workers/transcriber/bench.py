"""`python -m workers.transcriber.bench`: a step of speech-to-text, and Moshi's with and without it beside, as JSON.

Moshi steps every 80 ms, as in calls; the transcriber, a process of its own that gives way as the real one does, steps
as many rows as often, when Moshi's step begins or when it is done. Alone, at once and after in turns of two seconds, so
that a machine whose speed drifts is as unfair to all.
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
from workers.worker import give_way

TURN_STEPS = 25
WARM_UP_STEPS = 10
PERCENTILES = (50, 99)
Step = Callable[[], object]


def _codes(rows: int, codebooks: int) -> dict[Slot, np.ndarray[tuple[int], np.dtype[np.int32]]]:
    codes = np.random.default_rng(0).integers(0, CODES, (rows, codebooks)).astype(np.int32)
    return {Slot(row): frame for row, frame in enumerate(codes)}


def _transcriber_step(spec: str, cache: Path, rows: int) -> Step:
    from workers.transcriber.start import load_speech
    from workers.transcriber.transcriber import Transcriber

    transcriber = Transcriber(load_speech(locate_stt(spec, cache, report_nothing))[0], rows)
    codes = _codes(rows, SPEECH_CODEBOOKS)
    for slot in codes:
        transcriber.open(slot)
    return lambda: transcriber.step(codes)


def _moshi_step(spec: str, cache: Path, rows: int) -> Step:
    from workers.engine.checkpoint import load
    from workers.engine.engine import Engine

    engine = Engine(load(locate(spec, cache, report_nothing)), rows)
    codes = _codes(rows, CODEBOOKS)
    for slot in codes:
        engine.open(slot, seed=slot)
    return lambda: engine.step(codes)


def _nothing() -> None:
    pass


def _times_s(
    step: Step, steps: int, every_s: float = 0.0, before: Step = _nothing, after: Step = _nothing
) -> list[float]:
    """Return the seconds that each step took; one begins every `every_s`, or when the one before is done."""
    times, began = [], time.perf_counter()
    for number in range(steps):
        time.sleep(max(0.0, began + number * every_s - time.perf_counter()))
        before()
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
        after()
    return times


@contextmanager
def _beside(spec: str, cache: Path, rows: int) -> Iterator[Step]:
    """Start a transcriber in another process, warm when the block begins; yield what has it step all rows once."""
    options = ["--beside", "--rows", str(rows), "--transcribe", spec, "--cache", str(cache)]
    command = [sys.executable, "-m", "workers.transcriber.bench", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stdin=pipe, start_new_session=True) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        descriptor = process.stdin.fileno()
        try:
            yield lambda: os.write(descriptor, b".")
        finally:
            process.kill()


def _summary(times_s: Sequence[float]) -> dict[str, float]:
    values = np.percentile(times_s, PERCENTILES)
    return {f"p{percent}_ms": round(float(value) * 1e3, 2) for percent, value in zip(PERCENTILES, values, strict=True)}


def measure(moshi: str, transcribe: str, cache: Path, rows: int, steps: int) -> dict[str, object]:
    """Return the times of steps of so many rows."""
    speech = _transcriber_step(transcribe, cache, rows)
    _times_s(speech, WARM_UP_STEPS)
    times: dict[str, list[float]] = {"transcriber": _times_s(speech, steps), "alone": [], "at_once": [], "after": []}
    step = _moshi_step(moshi, cache, rows)
    _times_s(step, WARM_UP_STEPS)
    with _beside(transcribe, cache, rows) as beside:
        for begin in range(0, steps, TURN_STEPS):
            turn = min(TURN_STEPS, steps - begin)
            times["alone"] += _times_s(step, turn, FRAME_S)
            times["at_once"] += _times_s(step, turn, FRAME_S, before=beside)
            times["after"] += _times_s(step, turn, FRAME_S, after=beside)
    return {"rows": rows} | {name: _summary(times_s) for name, times_s in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default="synthetic:random")
    parser.add_argument("--transcribe", default="synthetic:stt:random")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 8, 16))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--beside", action="store_true", help="step a transcriber for each byte that is read")
    args = parser.parse_args()
    if args.beside:
        give_way()
        step = _transcriber_step(args.transcribe, args.cache, args.rows[0])
        step()
        print("warm", flush=True)
        while sys.stdin.buffer.read(1):
            step()
        return
    found = [measure(args.checkpoint, args.transcribe, args.cache, rows, args.steps) for rows in args.rows]
    json.dump({"checkpoint": args.checkpoint, "transcribe": args.transcribe, "times": found}, sys.stdout)


if __name__ == "__main__":
    main()
