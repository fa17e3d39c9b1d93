"""A worker's configuration for tests."""

from pathlib import Path

from workers.messages import Stage, WorkerConfig

LOOPBACK = WorkerConfig(
    stage=Stage.STEP,
    slots=2,
    engine="loopback",
    codec="loopback",
    checkpoint="",
    quantize=None,
    cache=Path("/nonexistent"),
    greeting_frames=0,
    max_call_s=60.0,
)
