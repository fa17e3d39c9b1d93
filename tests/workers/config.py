"""A worker's configuration for tests."""

from pathlib import Path

from workers.control_messages import WorkerConfig
from workers.messages import Stage

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
