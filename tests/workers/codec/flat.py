"""Two hours of a call as fast as they go: is everything flat, and is the end still what a young codec would say?

    python -m tests.workers.codec.flat encode FILE [hours]        and the same with decode

A fresh row is opened two minutes before the end and fed the same. Mimi's transformer looks back 250 positions in each
of its 8 layers, 2,000 positions or 80 s in all, and a convolution less than a frame: after that the two rows have
nothing different behind them but the angles of their positions, which round differently. So in the last 30 s they must
agree. They are computed in turn then, each alone, so that their times can be compared on a machine with other jobs.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from tests.workers.codec.sounds import codes, snr_db, sound
from workers.codec.choose import make_decoder, make_encoder
from workers.messages import Slot

_OLD, _FRESH = Slot(0), Slot(1)
_MINUTE = 750
_REPORT = 10 * _MINUTE


def main(direction: str, mimi: Path, hours: float) -> None:
    """Run one direction and print a line for every ten minutes of the call."""
    frames = int(hours * 60 * _MINUTE)
    run: Callable[[Any], dict[Slot, Any]]
    if direction == "encode":
        material: NDArray[Any] = sound("speech", 5 * _MINUTE)
        run = make_encoder("numpy", mimi, 2).encode
    else:
        material, run = codes(5 * _MINUTE), make_decoder("numpy", mimi, 2).decode
    times: list[float] = []
    young_times: list[float] = []
    last, process = [], psutil.Process()
    for index in range(frames):
        frame = material[index % len(material)]
        result, took_s = _timed(run, _OLD, frame)
        times.append(took_s)
        if index >= frames - 2 * _MINUTE:
            young_result, took_s = _timed(run, _FRESH, frame)
            young_times.append(took_s)
            last.append([result, young_result])
        if index == _MINUTE or (index + 1) % _REPORT == 0:
            _report(direction, index + 1, times[-_REPORT:], process.memory_info().rss)
    _compare(direction, np.array(last[-_MINUTE // 2 :]))
    old_ms, young_ms = np.median(times[-_MINUTE:]) * 1e3, np.median(young_times[-_MINUTE:]) * 1e3
    print(f"{direction}, the last minute: {old_ms:.2f} ms a frame, the young row {young_ms:.2f} ms")


def _timed(run: Callable[[Any], dict[Slot, Any]], slot: Slot, frame: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = run({slot: frame})[slot]
    return result, time.perf_counter() - started


def _report(direction: str, frames: int, times: list[float], rss: int) -> None:
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    minute, mib = frames / _MINUTE, rss / 2**20
    print(f"{direction} minute {minute:5.1f}: {p50:.2f} ms a frame (p99 {p99:.2f}), {mib:.1f} MiB", flush=True)


def _compare(direction: str, last: NDArray[Any]) -> None:
    old, fresh = last[:, 0], last[:, 1]
    if direction == "encode":
        print(f"codes of the last 30 s equal to a young row's: {(old == fresh).mean():.5%}")
    else:
        print(f"audio of the last 30 s against a young row's: {snr_db(fresh, old):.1f} dB")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 2.0)
