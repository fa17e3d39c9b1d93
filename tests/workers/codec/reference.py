"""Minutes of every kind of sound against rustymimi; slow, so run by hand.

    python -m tests.workers.codec.reference FILE [numpy|mlx] [seconds] [kinds …]

Prints for each kind how many codes are equal and how far below the sound the difference is, in all and in the last ten
seconds.
"""

import sys
from pathlib import Path

import numpy as np
import rustymimi

from tests.workers.codec.sounds import KINDS, Frames, snr_db, sound
from workers.codec.choose import Library, make_decoder, make_encoder
from workers.messages import CodeArray, Slot

_SLOT = Slot(0)
_TEN_SECONDS = 125


def official(mimi: Path, said: Frames) -> tuple[CodeArray, Frames]:
    """Return rustymimi's codes (frames, 8), and its sound of them (frames, 1920)."""
    tokenizer = rustymimi.Tokenizer(str(mimi), num_codebooks=8)
    codes = np.array([tokenizer.encode_step(frame[None, None])[0, :, 0] for frame in said])
    heard = [tokenizer.decode_step(np.ascontiguousarray(frame[None, :, None]))[0, 0] for frame in codes]
    return codes.astype(np.int32), np.array(heard)


def main(mimi: Path, library: str, seconds: int, kinds: list[str]) -> None:
    """Compare and print."""
    chosen: Library = "mlx" if library == "mlx" else "numpy"
    for kind in kinds:
        said = sound(kind, int(seconds * 12.5))
        codes, heard = official(mimi, said)
        encoder, decoder = make_encoder(chosen, mimi, 1), make_decoder(chosen, mimi, 1)
        ours = np.array([encoder.encode({_SLOT: frame})[_SLOT] for frame in said])
        sounded = np.array([decoder.decode({_SLOT: frame})[_SLOT] for frame in codes])
        equal = f"{(ours == codes).mean():.4%} of codes equal ({(ours != codes).sum()} of {codes.size} differ)"
        end = snr_db(heard[-_TEN_SECONDS:], sounded[-_TEN_SECONDS:])
        print(
            f"{library} {kind} {seconds} s: {equal}; {snr_db(heard, sounded):.1f} dB, at the end {end:.1f} dB",
            flush=True,
        )


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    main(Path(sys.argv[1]), arguments.get(2, "numpy"), int(arguments.get(3, "60")), sys.argv[4:] or list(KINDS))
