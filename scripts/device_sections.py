"""Two sections of `scripts/check_device.py`: the codec beside a running engine, and calls through the whole service."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers.checkpoints.synthetic import make_standin
from workers.codec.bench_one import Case
from workers.messages import FRAME_S
from workers.processors import usable_processors

Found = dict[str, Any]
CACHE = Path("~/.cache/moshi-bridge").expanduser()
DEVICE_CHECK = [sys.executable, "-m", "workers.engine.device_check"]


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
    mimi = next(make_standin("random", CACHE).glob("tokenizer*.safetensors"))
    threads = max(1, usable_processors() // 3)
    for calls in scale.calls:
        for path in scale.libraries:
            yield from _both_directions(Case(path, "", calls, threads, scale.frames, str(mimi)), "alone")
    for path in scale.libraries:
        case = Case(path, "", scale.calls[-1], threads, scale.frames, str(mimi), FRAME_S)
        yield from _beside_engine(case, scale)


def _both_directions(case: Case, where: str) -> Iterator[Found]:
    environment = os.environ | {"MLX_ENABLE_TF32": "0", "OPENBLAS_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"}
    command = [sys.executable, "-m", "workers.codec.bench_one"]
    cases = [asdict(case) | {"direction": direction} for direction in ("encode", "decode")]
    running = [
        subprocess.Popen([*command, json.dumps(one)], stdout=subprocess.PIPE, text=True, env=environment)
        for one in cases
    ]
    for one, process in zip(cases, running, strict=True):
        said = process.communicate()[0]
        what = f"{one['direction']} on {case.path}, {case.rows} calls, {where}"
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
    """Yield the worst of some calls at once, with each library computing the codec."""
    for codec in scale.libraries:
        yield asyncio.run(_calls(scale, codec))


async def _calls(scale: Scale, codec: str) -> Found:
    """Place simulated calls to a service of our own; return the worst of them."""
    from app.cli.bench.figures import call_figures
    from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, start_service
    from app.simulator.call import simulate
    from app.simulator.conversation import talk
    from app.simulator.options import CallOptions
    from app.twilio.events import RATE_HZ

    count = scale.calls[-1]
    environment = {"MOSHI_CHECKPOINT": scale.checkpoint, "CODEC": codec, "ENGINE": "mlx", "MAX_CALLS": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        async with start_service(environment, Path(folder) / "service.log") as service:
            audio = np.resize(talk(), round(scale.seconds * RATE_HZ))
            options = CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, audio=audio)
            reports = await asyncio.gather(*(simulate(options) for _ in range(count)))
            records = [await service.record(report.call_sid) for report in reports]
    every = [call_figures(report, record, False) for report, record in zip(reports, records, strict=True)]
    stages = {
        str(stage): max(one.stages[stage].p99_ms for one in every if stage in one.stages) for stage in every[0].stages
    }
    return {
        "what": f"{count} calls of {scale.seconds:.0f} s, {scale.checkpoint}, codec on {codec}: the worst",
        "outcomes": sorted({str(report.outcome) for report in reports}),
        "first_sound_ms": max(one.first_sound_ms or 0.0 for one in every),
        "frames": min(one.frames for one in every),
        "frames_dropped": max(one.frames_dropped for one in every),
        "underruns_settled": max(one.underruns_settled for one in every),
        **{f"{stage}_p99_ms": p99_ms for stage, p99_ms in stages.items()},
    }
