"""Two hours of a call as fast as they go: is everything flat, and is the end still what a young codec would say?

    python -m tests.workers.codec.flat encode FILE [hours]        and the same with decode

A fresh row is opened two minutes before the end and fed the same. Mimi's transformer looks back 250 positions in each
of its 8 layers, 2,000 positions or 80 s in all, and a convolution less than a frame: after that the two rows have
nothing different behind them but the angles of their positions, which round differently. So in the last 30 s they must
agree. They are computed in turn then, each alone, so that their times can be compared on a machine with other jobs.
"""

import sys
import time
from pathlib import Path

import numpy as np
import psutil

from tests.workers.codec.sounds import codes, snr_db, sound
from workers.codec.choose import make_codec
from workers.codec.codec import CodecError, Row
from workers.codec.mimi import Mimi
from workers.messages import Slot, Stage

_MINUTE = 750
_REPORT = 10 * _MINUTE


def main(stage: Stage, mimi: Path, hours: float) -> None:
    """Run one direction and print a line for every ten minutes of the call."""
    frames, codec = int(hours * 60 * _MINUTE), make_codec(stage, "numpy", mimi, 2)
    material = codes(5 * _MINUTE) if stage is Stage.DECODE else sound("speech", 5 * _MINUTE)
    times: tuple[list[float], list[float]] = [], []
    last: list[list[Row]] = []
    for index in range(frames):
        slots = (0, 1) if index >= frames - 2 * _MINUTE else (0,)
        last = [*last[-_MINUTE // 2 :], [_timed(codec, slot, material[index % len(material)], times) for slot in slots]]
        if index == _MINUTE or (index + 1) % _REPORT == 0:
            p50, p99 = np.percentile(times[0][-_REPORT:], [50, 99]) * 1e3
            mib = psutil.Process().memory_info().rss / 2**20
            print(
                f"{stage} minute {index / _MINUTE:5.1f}: {p50:.2f} ms a frame (p99 {p99:.2f}), {mib:.1f} MiB",
                flush=True,
            )
    old, young = np.array(last[-_MINUTE // 2 :]).swapaxes(0, 1)
    print(f"the last 30 s against a young row's: {(old == young).mean():.5%} equal, {snr_db(young, old):.1f} dB")
    old_ms, young_ms = (np.median(each[-_MINUTE:]) * 1e3 for each in times)
    print(f"{stage}, the last minute: {old_ms:.2f} ms a frame, the young row {young_ms:.2f} ms")


def _timed(codec: Mimi, slot: int, frame: Row, times: tuple[list[float], list[float]]) -> Row:
    started = time.perf_counter()
    result = codec.run({Slot(slot): frame})[Slot(slot)]
    times[slot].append(time.perf_counter() - started)
    assert not isinstance(result, CodecError)
    return result


if __name__ == "__main__":
    main(Stage(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 2.0)
