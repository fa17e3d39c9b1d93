"""Two sections of `scripts/check_device.py`: the codec, and calls through the whole service."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from workers.checkpoints.synthetic import make_synthetic
from workers.codec.bench import Case, start_measurement
from workers.processors import usable_processors

Found = dict[str, Any]
CACHE = Path("~/.cache/moshi-bridge").expanduser()


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
    """Both directions side by side, as fast as they can."""
    mimi = next(make_synthetic("random", CACHE).glob("tokenizer*.safetensors"))
    threads = max(1, usable_processors() // 3)
    for calls, path in product(scale.calls, scale.libraries):
        cases = [Case(path, direction, calls, threads, scale.frames, str(mimi)) for direction in ("encode", "decode")]
        for case, process in [(case, start_measurement(case)) for case in cases]:
            said = process.communicate()[0]
            found = json.loads(said) if said else {"failed": f"exit status {process.returncode}"}
            yield {"what": f"{case.direction} on {path}, {calls} calls", **found}


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
