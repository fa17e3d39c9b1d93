"""Two sections of `scripts/check_device.py`: the codec beside a running engine, and calls through the whole service."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workers.checkpoints.synthetic import make_synthetic
from workers.codec.bench import Case, start_measurement
from workers.messages import FRAME_S
from workers.processors import usable_processors

Found = dict[str, Any]
CACHE = Path("~/.cache/moshi-bridge").expanduser()
DEVICE_CHECK = [sys.executable, "-m", "scripts.device_engine"]


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


def check_codec(scale: Scale) -> Iterator[Found]:
    """Both directions side by side, as fast as they can; then a frame every 80 ms beside an engine that does so too."""
    mimi = next(make_synthetic("random", CACHE).glob("tokenizer*.safetensors"))
    threads = max(1, usable_processors() // 3)
    for calls in scale.calls:
        for path in scale.libraries:
            yield from _both_directions(Case(path, "", calls, threads, scale.frames, str(mimi)), "alone")
    for path in scale.libraries:
        case = Case(path, "", scale.calls[-1], threads, scale.frames, str(mimi), FRAME_S)
        yield from _beside_engine(case, scale)


def _both_directions(case: Case, where: str) -> Iterator[Found]:
    cases = [replace(case, direction=direction) for direction in ("encode", "decode")]
    running = [start_measurement(one) for one in cases]
    for one, process in zip(cases, running, strict=True):
        said = process.communicate()[0]
        what = f"{one.direction} on {case.path}, {case.rows} calls, {where}"
        yield {"what": what, **(json.loads(said) if said else {"failed": f"exit status {process.returncode}"})}


def _beside_engine(case: Case, scale: Scale) -> Iterator[Found]:
    command = [*DEVICE_CHECK, "hold", "--size", scale.size, "--weights", "q4", "--rows", str(case.rows)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout
        assert engine.stdin
        if not engine.stdout.readline():
            yield {"what": "an engine to run beside", "failed": f"exit status {engine.wait()}"}
            return
        yield from _both_directions(case, "beside an engine")
        engine.stdin.close()
        for line in engine.stdout:
            found = json.loads(line)
            yield found | {"what": f"{found['what']}, beside the codec on {case.path}"}


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
