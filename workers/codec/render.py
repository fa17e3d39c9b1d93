"""A call made again from its tokens: `python -m workers.codec.render CHECKPOINT …`.

Records of steps come in on standard input, 17 little-endian int16 each: the text token and the eight codes that Moshi
sampled, the caller's eight codes. For each step a frame of both goes out on standard output, float32 (1920, 2) at
24 kHz: the caller's that was read in the step, and Moshi's that it completed. A record of -1 is a pause: silence.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.files import CheckpointError, read_config
from workers.checkpoints.locate import locate
from workers.codec.choose import library_for, make_codec
from workers.codec.codec import CodecError
from workers.codec.mimi import Mimi
from workers.codec.tensors import WeightsError
from workers.messages import CODEBOOKS, FRAME_SAMPLES, STEP_TOKENS, CodeArray, Pcm, Slot, Stage
from workers.processors import usable_processors

CALLER, MOSHI = Slot(0), Slot(1)
DELAYS = (0, *[1] * (CODEBOOKS - 1))
"""Those of Moshi's own codebooks, unless the checkpoint says otherwise."""
EXIT_WRONG = 2

Records = NDArray[np.int16]


def moshi_frames(records: Records, delays: Sequence[int] = DELAYS) -> list[CodeArray | None]:
    """Return the frame that each step completed, int32 (8,); None for the first ones and in pauses.

    `records` have the shape (steps, 17). Codebook c of a frame was sampled `delays[c]` steps after the first one.
    """
    stepped = np.flatnonzero(records[:, 0] >= 0)
    sampled = records[stepped, 1 : 1 + CODEBOOKS].astype(np.int32)
    wait, codebooks = max(delays), np.arange(CODEBOOKS)
    frames: list[CodeArray | None] = [None] * len(records)
    for step in range(wait, len(stepped)):
        frames[stepped[step]] = sampled[step - wait + np.array(delays), codebooks]
    return frames


def caller_frames(records: Records) -> list[CodeArray | None]:
    """Return the frame read in each step, int32 (8,); None in pauses."""
    return [record[1 + CODEBOOKS :].astype(np.int32) if record[0] >= 0 else None for record in records]


def render(decoder: Mimi, records: Records, delays: Sequence[int] = DELAYS) -> Iterator[Pcm]:
    """Yield a stereo frame for each record, float32 (1920, 2): caller and Moshi. Raises CodecError for wrong codes."""
    for slot in (CALLER, MOSHI):
        decoder.open(slot)
    for caller, moshi in zip(caller_frames(records), moshi_frames(records, delays), strict=True):
        codes = {slot: frame for slot, frame in ((CALLER, caller), (MOSHI, moshi)) if frame is not None}
        stereo = np.zeros((FRAME_SAMPLES, 2), np.float32)
        for slot, pcm in decoder.run(codes).items():
            if isinstance(pcm, CodecError):
                raise pcm
            stereo[:, slot] = pcm
        yield stereo


def main() -> int:
    """Render standard input to standard output; return the exit status. Errors are one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--codec", default="auto")
    parser.add_argument("--quantize", type=int)
    args = parser.parse_args()
    records = np.frombuffer(sys.stdin.buffer.read(), "<i2").astype(np.int16).reshape(-1, STEP_TOKENS)
    try:
        files = locate(args.checkpoint, args.cache, lambda what, *_: _announce(what), args.quantize)
        decoder = make_codec(Stage.DECODE, library_for(args.codec), files.mimi, 2, usable_processors())
        delays = read_config(files.config).get("delays", (0, *DELAYS))[1 : 1 + CODEBOOKS]  # the text's comes first
        for frame in render(decoder, records, delays):
            sys.stdout.buffer.write(frame.tobytes())
        sys.stdout.buffer.flush()
    except (CheckpointError, WeightsError, CodecError) as error:
        print(f"moshi-bridge: {error}", file=sys.stderr)
        return EXIT_WRONG
    except BrokenPipeError:  # the reader has gone
        return EXIT_WRONG
    return 0


@cache
def _announce(what: str) -> None:
    """Print one line on standard error for each piece of work that takes long."""
    print(f"{what} …", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
