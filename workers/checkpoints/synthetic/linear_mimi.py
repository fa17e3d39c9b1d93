"""A Mimi whose weights are written down: an exact transform codec with a phrasebook for its codebooks.

Theory. Mimi is convolutions, transformers and vector quantizers. Transformers whose layer scales are 0 pass their input
through, residual blocks of zeros likewise, and ELU is the identity for what is positive, which a constant offset makes
everything. What is left is linear:

    encoder   the strided convolutions gather 960 samples (40 ms) side by side in one position; the last convolution
              takes the first 256 coefficients of their DCT, 0 to 3.2 kHz; the downsampling puts the two halves of a
              frame one above the other: channels 0..255 and 256..511.
    quantizer codebook 0 sees the first half, codebook 1 the second, the others nothing.
    decoder   the same way back, overlapping nothing: each position depends on its own 40 ms alone.

An entry of codebook 0 or 1 is the 256 coefficients of half a frame:

    0             silence
    1..1023       the frames of the phrasebook, one after the other (codebook 1 has the second half of the same frame)
    1024..1279    one coefficient of 100 Hz to 1.7 kHz at +-ACTIVE_LEVEL: somebody speaks
    the rest      out of reach

The nearest entry wins, so a half frame is silence unless a coefficient of that band passes ACTIVE_LEVEL / 2, which
takes telephone-band noise of -40 dB or a steady tone of -49 dB (full scale is 0 dB), or it resembles the phrasebook. As
no entry but 0 is smaller than ACTIVE_LEVEL, any half frame below -52 dB is silence whatever it sounds like.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.mimi_layout import CODE_DIM, DIM, ENTRIES, SHAPES, STRIDES, codebook_name
from workers.messages import CODEBOOKS, FRAME_SAMPLES, Pcm

Floats = NDArray[np.float32]

HALF = FRAME_SAMPLES // 2
ACTIVE_LEVEL = 0.15
"""Norm of 256 coefficients; the DCT being orthonormal, the root of the sum of the squared samples of half a frame."""
BAND_BEGIN = 1_024
_BAND = range(8, 136)
"""The coefficients that tell speech from silence, 12.5 Hz each: above hum, below hiss."""
_FAR = 1e3
_OFFSET = 4.0
"""Lifts PCM above 0."""
_SPARE = DIM
"""The decoder's channel that carries the constant 1."""


def _dct() -> Floats:
    """Return the orthonormal DCT-II of half a frame, shape (256, 960): coefficients = matrix @ samples."""
    order, sample = np.arange(CODE_DIM)[:, None], np.arange(HALF)[None]
    matrix: NDArray[np.float64] = np.cos(np.pi * order * (sample + 0.5) / HALF) * np.sqrt(2 / HALF)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


DCT = _dct()


def coefficients(pcm: Pcm) -> Floats:
    """Return the entries for `pcm` of whole frames, shape (frames, 2, 256); what is faint becomes silence."""
    halves = pcm.reshape(-1, 2, HALF) @ DCT.T
    loud = np.linalg.norm(halves, axis=-1, keepdims=True) >= ACTIVE_LEVEL
    return np.where(loud, halves, np.float32(0))


def _band() -> Floats:
    entries = np.zeros((2 * len(_BAND), CODE_DIM), np.float32)
    for row, coefficient in enumerate(_BAND):
        entries[2 * row : 2 * row + 2, coefficient] = ACTIVE_LEVEL, -ACTIVE_LEVEL
    return entries


def _book(halves: Floats) -> Floats:
    """Return a codebook, (2048, 256), for one half of the frames of the phrasebook, (frames, 256)."""
    entries = np.full((ENTRIES, CODE_DIM), _FAR, np.float32)
    entries[0] = 0
    spoken = halves.any(axis=1)
    entries[1 : 1 + len(halves)][spoken] = halves[spoken]
    band = _band()
    entries[BAND_BEGIN : BAND_BEGIN + len(band)] = band
    return entries


def _nothing() -> Floats:
    entries = np.full((ENTRIES, CODE_DIM), _FAR, np.float32)
    entries[0] = 0
    return entries


def _gather(weight: Floats, channels: int, first: int) -> None:
    """Make a convolution, (out, in, kernel), put `channels` channels of successive samples side by side."""
    for place in range(weight.shape[2] - first):
        for channel in range(channels):
            weight[place * channels + channel, channel, first + place] = 1


def _spread(weight: Floats, channels: int) -> None:
    """Make a transposed convolution, (in, out, kernel), undo `_gather`."""
    for place in range(weight.shape[2] // 2):
        for channel in range(channels):
            weight[place * channels + channel, channel, place] = 1


def _encoder(of: dict[str, Floats]) -> None:
    of["encoder.model.0.conv.conv.weight"][0, 0, -1] = 1
    of["encoder.model.0.conv.conv.bias"][0] = _OFFSET
    gathered = 1
    for index, stride in enumerate(STRIDES):
        _gather(of[f"encoder.model.{3 * index + 3}.conv.conv.weight"], gathered, first=stride)
        gathered *= stride
    of["encoder.model.14.conv.conv.weight"][:CODE_DIM, :HALF, -1] = DCT
    of["encoder.model.14.conv.conv.bias"][:CODE_DIM] = -_OFFSET * DCT.sum(axis=1)
    channels = np.arange(CODE_DIM)
    for half in (0, 1):
        of["downsample.conv.conv.conv.weight"][CODE_DIM * half + channels, channels, 2 + half] = 1


def _lift(halves: Floats) -> Floats:
    """Return what lifts every entry's coefficients above 0, shape (256,); more would only cost precision."""
    lift: Floats = np.maximum(-halves.min(axis=(0, 1)), ACTIVE_LEVEL) * np.float32(1.01)
    return lift


def _synthesis(of: dict[str, Floats], lift: Floats) -> None:
    """Write the inverse DCT into the first upsampling, whose 8 steps yield 120 samples each."""
    weight, narrow = of["decoder.model.2.convtr.convtr.weight"], HALF // STRIDES[-1]
    for place in range(STRIDES[-1]):
        basis = DCT[:, place * narrow : (place + 1) * narrow]
        weight[:CODE_DIM, :narrow, place] = weight[CODE_DIM:DIM, :narrow, place] = basis
        weight[_SPARE, :narrow, place] = _OFFSET - 2 * lift @ basis


def _decoder(of: dict[str, Floats], lift: Floats) -> None:
    for half in (0, 1):
        of["upsample.convtr.convtr.convtr.weight"][CODE_DIM * half : CODE_DIM * (half + 1), 0, half] = 1
    channels = np.arange(DIM)
    of["decoder.model.0.conv.conv.weight"][channels, channels, -1] = 1
    of["decoder.model.0.conv.conv.bias"][:DIM] = np.tile(lift, 2)
    of["decoder.model.0.conv.conv.bias"][_SPARE] = 1
    _synthesis(of, lift)
    for index, left in ((5, 20), (8, 4), (11, 1)):
        _spread(of[f"decoder.model.{index}.convtr.convtr.weight"], left)
    of["decoder.model.14.conv.conv.weight"][0, 0, -1] = 1
    of["decoder.model.14.conv.conv.bias"][0] = -_OFFSET


def _quantizers(of: dict[str, Floats], halves: Floats) -> None:
    channels = np.arange(CODE_DIM)
    for half, group in enumerate(("rvq_first", "rvq_rest")):
        of[f"quantizer.{group}.input_proj.weight"][channels, CODE_DIM * half + channels, 0] = 1
        of[f"quantizer.{group}.output_proj.weight"][CODE_DIM * half + channels, channels, 0] = 1
    for codebook in range(CODEBOOKS):
        entries = _book(halves[:, codebook]) if codebook < 2 else _nothing()
        of[f"{codebook_name(codebook)}.embedding_sum"][:] = entries


def _start(name: str) -> Floats:
    ones = name.endswith(("norm1.weight", "norm2.weight", "_initialized", "cluster_usage"))
    return (np.ones if ones else np.zeros)(SHAPES[name], np.float32)


def linear_mimi(halves: Floats) -> dict[str, Floats]:
    """Return the weights of a Mimi that speaks the frames of `coefficients`, shape (frames, 2, 256), at most 1,023."""
    if len(halves) >= BAND_BEGIN:
        raise ValueError(f"{len(halves)} frames of phrases, the codebook holds {BAND_BEGIN - 1}")
    weights = {name: _start(name) for name in SHAPES}
    _encoder(weights)
    _decoder(weights, _lift(halves))
    _quantizers(weights, halves)
    return weights


def frame_codes(halves: Floats) -> NDArray[np.int32]:
    """Return the codes, shape (frames, 8), of the frames of `coefficients`."""
    codes = np.zeros((len(halves), CODEBOOKS), np.int32)
    codes[:, :2] = np.where(halves.any(axis=-1), np.arange(1, len(halves) + 1)[:, None], 0)
    return codes


def activity(codes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return whether somebody speaks in the first and the second half of each frame, shape (frames, 2)."""
    active: NDArray[np.bool_] = codes[:, :2] != 0
    return active


def activity_of(pcm: Pcm, halves: Floats) -> NDArray[np.bool_]:
    """Return `activity` for `pcm` of whole frames without running the codec, shape (frames, 2)."""
    heard = pcm.reshape(-1, 2, HALF) @ DCT.T
    return np.stack([_nearest(heard[:, half], _book(halves[:, half])) != 0 for half in range(2)], axis=1)


def _nearest(vectors: Floats, entries: Floats) -> NDArray[np.intp]:
    distance = (entries**2).sum(axis=1) - 2 * vectors @ entries.T
    nearest: NDArray[np.intp] = distance.argmin(axis=1)
    return nearest


def frames_of(phrases: Sequence[Pcm]) -> Floats:
    """Return the coefficients of all phrases, one after the other."""
    return np.concatenate([coefficients(pcm) for pcm in phrases])
