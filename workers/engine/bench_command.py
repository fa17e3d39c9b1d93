"""`python -m workers.engine.bench_command`: the engine's bench as JSON, for who may not import mlx."""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from workers.checkpoints.locate import CheckpointError


def main() -> int:
    """Run the bench and print one JSON object; exit with 2 and one line if the checkpoint cannot be used."""
    asked = _arguments()
    import mlx.core as mx

    from workers.engine.bench import bench_engine
    from workers.engine.checkpoint import open_checkpoint

    try:
        checkpoint = open_checkpoint(asked.checkpoint, asked.quantize, cache=asked.cache, progress=lambda *_: None)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    times = bench_engine(
        checkpoint.lm, asked.rows, asked.steps, checkpoint.sampling, context=asked.context, full=asked.full
    )
    machine = {"platform": platform.platform(), "device": str(mx.default_device())}
    json.dump({"machine": machine, "checkpoint": asked.checkpoint, "times": [asdict(one) for one in times]}, sys.stdout)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--quantize", type=int)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--context", type=int)
    parser.add_argument("--full", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
