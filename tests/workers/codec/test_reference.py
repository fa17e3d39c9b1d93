"""The same codes and the same sound as rustymimi on the same file, from the first frame to past the window's wrap.

One call of 130 frames with every kind of sound in it; 251 keys are 125.5 frames.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import rustymimi

from tests.workers.codec.conftest import STAGES, Codecs
from tests.workers.codec.sounds import KINDS, codes, snr_db, sound
from workers.codec.choose import Library, make_codec
from workers.codec.codec import Codec, CodecError, Row
from workers.codec.mimi import Mimi
from workers.codec.rustymimi_codec import RustymimiCodec
from workers.codec.state import ENTRIES, rotation
from workers.messages import FRAME_S, Slot, Stage

FRAMES = 130
BLOCK = 65
"""Frames that rustymimi computes at a time: the same result in less than half the time."""
WRAP = 124
FULL = 126
"""Then every entry of the ring is written."""
SLOT, OLD = Slot(1), Slot(2)
TWO_HOURS = 715 * ENTRIES
"""In positions; after whole rounds of the ring each entry is where it was."""
Reference = dict[Stage, tuple[Row, Row]]
"""What each direction gets, and what rustymimi makes of it."""


def official(mimi: Path, said: Row) -> Reference:
    """Feed rustymimi with frames (n · BLOCK, 1920); then with their codes, in the second half any codes.

    Its encoder gives all 32 codes, its decoder reads eight.
    """
    encoding, decoding = (rustymimi.Tokenizer(str(mimi), num_codebooks=books) for books in (32, 8))
    starts = range(0, len(said), BLOCK)
    blocks = [encoding.encode_step(said[at : at + BLOCK].reshape(1, 1, -1))[0].T for at in starts]
    encoded = np.concatenate(blocks).astype(np.int32)
    answer = np.concatenate([encoded[: len(said) // 2, :8], codes(len(said) - len(said) // 2)])
    spoken = [np.ascontiguousarray(answer[at : at + BLOCK].T[None].astype(np.uint32)) for at in starts]
    heard = np.concatenate([decoding.decode_step(block)[0, 0] for block in spoken])
    return {Stage.ENCODE: (said, encoded), Stage.DECODE: (answer, heard.reshape(said.shape))}


@pytest.fixture(scope="module")
def reference(mimi: Path) -> Reference:
    return official(mimi, np.concatenate([sound(kind, n) for kind, n in zip(KINDS, (40, 20, 20, 50), strict=True)]))


def run(codec: Codec, frames: Row, slot: Slot = SLOT) -> Row:
    return np.array([codec.run({slot: frame})[slot] for frame in frames])


def assert_same(stage: Stage, wanted: Row, got: Row) -> None:
    if stage is Stage.ENCODE:
        assert got.tolist() == wanted[:, : got.shape[1]].tolist()
    else:
        assert snr_db(wanted, got) > 100


def hand_over(old: Mimi, new: Mimi) -> None:
    """Let a codec on MLX go on where one on numpy stands."""
    before, after = old._step.state, new._step.state
    after.position[:], after.tails = before.position, mx.array(before.tails)
    after.keys, after.values = ([mx.array(layer) for layer in layers] for layers in (before.keys, before.values))


def copy_two_hours_later(codec: Mimi) -> None:
    """Put OLD where SLOT is, with keys rotated by the angles of two hours."""
    state, ((cos, _),), ((sin, _),) = codec._step.state, *rotation(np.array([TWO_HOURS]))
    state.position[OLD], state.tails[OLD] = state.position[SLOT] + TWO_HOURS, state.tails[SLOT]
    for keys, values in zip(state.keys, state.values, strict=True):
        a, b = np.split(keys[SLOT], 2, axis=-1)
        keys[OLD] = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
        values[OLD] = values[SLOT]


@pytest.mark.parametrize("stage", STAGES)
def test_numpy_and_mlx_give_what_rustymimi_gives_in_a_long_call_too(
    mimi: Path, codecs: Codecs, reference: Reference, stage: Stage
) -> None:
    numpy, (frames, wanted) = codecs[stage], reference[stage]
    on_mlx = make_codec(stage, "mlx", mimi, numpy.slots)
    assert_same(stage, wanted[:2], run(on_mlx, frames[:2]))
    numpy.open(SLOT)
    assert_same(stage, wanted[:WRAP], run(numpy, frames[:WRAP]))
    hand_over(numpy, on_mlx)
    assert_same(stage, wanted[WRAP:FULL], run(numpy, frames[WRAP:FULL]))
    copy_two_hours_later(numpy)
    assert_same(stage, wanted[FULL:], run(numpy, frames[FULL:]))
    assert_same(stage, wanted[FULL:], run(numpy, frames[FULL:], OLD))
    assert_same(stage, wanted[WRAP : WRAP + 3], run(on_mlx, frames[WRAP : WRAP + 3]))


@pytest.mark.parametrize(("library", "frames"), [("numpy", FRAMES), ("mlx", 3)])
def test_all_32_codes_are_rustymimis(mimi: Path, reference: Reference, library: Library, frames: int) -> None:
    encoder, (said, wanted) = make_codec(Stage.ENCODE, library, mimi, 2, codebooks=32), reference[Stage.ENCODE]
    encoder.open(SLOT)
    assert run(encoder, said[:frames]).tolist() == wanted[:frames].tolist()
    assert len({tuple(column) for column in wanted.T}) == 32


@pytest.mark.parametrize("stage", STAGES)
def test_the_codec_on_rustymimi(mimi: Path, reference: Reference, stage: Stage) -> None:
    """Every call begins alike, after a frame of zeros; one that is too long ends, as does one with a wrong frame."""
    codec, (frames, wanted) = RustymimiCodec(stage, mimi, slots=2, max_call_s=2 * FRAME_S), reference[stage]
    begun: list[Row] = []
    for _ in range(2):
        codec.open(SLOT)
        begun.append(run(codec, frames[:2]))
        *_, result = (codec.run({SLOT: frame})[SLOT] for frame in frames[2:12])
        assert isinstance(result, CodecError)
        assert str(result) == "Mimi failed earlier in this call"
        codec.close(SLOT)
    assert np.array_equal(begun[0], begun[1])
    assert_same(stage, wanted[1:2], begun[0][1:])
    assert isinstance(codec.run({SLOT: frames[0][:5]})[SLOT], CodecError)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_seconds_of_each_kind_of_sound(mimi: Path, codecs: Codecs, kind: str) -> None:
    for stage, (frames, wanted) in official(mimi, sound(kind, 2 * BLOCK)).items():
        codecs[stage].open(SLOT)
        assert_same(stage, wanted, run(codecs[stage], frames))
