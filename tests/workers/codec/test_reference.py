"""The same codes and the same sound as rustymimi on the same file, from the first frame to past the window's wrap.

One call of 140 frames with every kind of sound in it; 251 keys are 125.5 frames. Minutes of each kind, for every
library: `reference.py` beside this file.
"""

from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest
import rustymimi

from tests.workers.codec.sounds import KINDS, Frames, codes, snr_db, sound
from workers.codec.choose import make_decoder, make_encoder
from workers.codec.mimi import MimiDecoder, MimiEncoder
from workers.messages import CodeArray, Slot

FRAMES = 140
BLOCK = 20
"""Frames that rustymimi computes at a time: the same result in half the time."""
WRAP = 124
SLOT = Slot(1)


class Reference(NamedTuple):
    """A call as rustymimi has it: what is said and its codes, what Moshi says and its sound."""

    said: Frames
    codes: CodeArray
    answer: CodeArray
    heard: Frames


@pytest.fixture(scope="module")
def reference(mimi: Path) -> Reference:
    said = np.concatenate([sound(kind, count) for kind, count in zip(KINDS, (40, 30, 20, 50), strict=True)])
    encoding, decoding = (rustymimi.Tokenizer(str(mimi), num_codebooks=8) for _ in range(2))
    blocks = [said[start : start + BLOCK].reshape(1, 1, -1) for start in range(0, FRAMES, BLOCK)]
    encoded = np.concatenate([encoding.encode_step(block)[0].T for block in blocks]).astype(np.int32)
    answer = np.concatenate([encoded[: FRAMES // 2], codes(FRAMES - FRAMES // 2)])
    spoken = [answer[start : start + BLOCK].T[None].astype(np.uint32) for start in range(0, FRAMES, BLOCK)]
    heard = np.concatenate([decoding.decode_step(np.ascontiguousarray(block))[0, 0] for block in spoken])
    return Reference(said, encoded, answer, heard.reshape(FRAMES, -1))


def encoded(encoder: MimiEncoder, frames: Frames) -> CodeArray:
    return np.array([encoder.encode({SLOT: frame})[SLOT] for frame in frames], np.int32)


def decoded(decoder: MimiDecoder, frames: CodeArray) -> Frames:
    return np.array([decoder.decode({SLOT: frame})[SLOT] for frame in frames], np.float32)


def test_numpy_gives_the_codes_of_rustymimi(encoder: MimiEncoder, reference: Reference) -> None:
    encoder.open(SLOT)
    assert encoded(encoder, reference.said).tolist() == reference.codes.tolist()


def test_numpy_gives_the_sound_of_rustymimi(decoder: MimiDecoder, reference: Reference) -> None:
    decoder.open(SLOT)
    assert snr_db(reference.heard, decoded(decoder, reference.answer)) > 100


def hand_over(old: MimiEncoder | MimiDecoder, new: MimiEncoder | MimiDecoder) -> None:
    """Let a codec on MLX go on where one on numpy stands."""
    before, after = old._step.state, new._step.state
    after.position[:], after.tails = before.position, mx.array(before.tails)
    after.keys, after.values = ([mx.array(layer) for layer in layers] for layers in (before.keys, before.values))


def test_mlx_gives_the_codes_of_rustymimi(mimi: Path, encoder: MimiEncoder, reference: Reference) -> None:
    on_mlx = make_encoder("mlx", mimi, encoder.slots)
    assert encoded(on_mlx, reference.said[:2]).tolist() == reference.codes[:2].tolist()
    encoder.open(SLOT)
    encoded(encoder, reference.said[:WRAP])
    hand_over(encoder, on_mlx)
    assert encoded(on_mlx, reference.said[WRAP : WRAP + 3]).tolist() == reference.codes[WRAP : WRAP + 3].tolist()


def test_mlx_gives_the_sound_of_rustymimi(mimi: Path, decoder: MimiDecoder, reference: Reference) -> None:
    on_mlx = make_decoder("mlx", mimi, decoder.slots)
    assert snr_db(reference.heard[:2], decoded(on_mlx, reference.answer[:2])) > 100
    decoder.open(SLOT)
    decoded(decoder, reference.answer[:WRAP])
    hand_over(decoder, on_mlx)
    assert snr_db(reference.heard[WRAP : WRAP + 3], decoded(on_mlx, reference.answer[WRAP : WRAP + 3])) > 100
