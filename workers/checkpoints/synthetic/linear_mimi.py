"""A Mimi whose weights are written down: an exact transform codec whose codebooks hold recorded speech.

Mimi is convolutions, transformers and vector quantizers. Transformers whose layer scales are 0 pass their input
through, residual blocks of zeros likewise, and ELU is the identity for what is positive, which a constant offset makes
everything. What is left is linear:

    encoder   the strided convolutions gather 960 samples (40 ms) side by side in one position; the last convolution
              takes the first 256 coefficients of their DCT, 0 to 3.2 kHz; the downsampling puts the two halves of a
              frame one above the other: channels 0..255 and 256..511.
    quantizer codebook 0 sees the first half, codebook 1 the second, the others nothing.
    decoder   the same way back, overlapping nothing: each position depends on its own 40 ms alone.

An entry of codebook 0 or 1 is the 256 coefficients of half a frame:

    0             silence
    1..1023       the frames that Moshi says, one after the other (codebook 1 has the second half of the same frame)
    1024..1279    one coefficient of 100 Hz to 1.7 kHz at +-ACTIVE_LEVEL: somebody speaks
    the rest      out of reach

In codebook `SPOKEN`, which Moshi does not read, are the second halves of frames that `synthetic:stt` knows, from entry
1 on; the nearest one is the code, or silence. The codebooks between see all that codebook 1 left, as their entries are
silence alone.

The nearest entry wins, so a half frame is silence unless a coefficient of that band passes ACTIVE_LEVEL / 2, which
takes telephone-band noise of -40 dB or a steady tone of -49 dB (full scale is 0 dB), or it resembles what Moshi says.
An entry is at least as large as ACTIVE_LEVEL or, as 0, all zeros; of entries equally near the first wins. So any half
frame below -52 dB is silence, code 0, whatever it sounds like.
"""

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.mimi_layout import CODE_DIM, DIM, GROUPS, SHAPES, STRIDES, codebook_name
from workers.checkpoints.synthetic.weights_file import F32, blank
from workers.messages import CODEBOOKS, CODES, FRAME_SAMPLES, SPEECH_CODEBOOKS, Pcm

HALF = FRAME_SAMPLES // 2
ACTIVE_LEVEL = 0.15
"""Norm of 256 coefficients; the DCT being orthonormal, the root of the sum of the squared samples of half a frame."""
BAND_BEGIN = 1_024
_BAND = np.arange(8, 136)
"""The coefficients that tell speech from silence, 12.5 Hz each: above hum, below hiss."""
SPOKEN = CODEBOOKS
"""The first codebook that Moshi does not read."""
_FAR = 1e3
_OFFSET = 4.0
"""Lifts PCM above 0."""
_ONE = DIM
"""The decoder's channel that carries the constant 1."""
_HALVES = [slice(0, CODE_DIM), slice(CODE_DIM, DIM)]


def _dct() -> F32:
    order, sample = np.arange(CODE_DIM)[:, None], np.arange(HALF)[None]
    matrix: NDArray[np.float64] = np.cos(np.pi * order * (sample + 0.5) / HALF) * np.sqrt(2 / HALF)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


DCT = _dct()
"""The orthonormal DCT-II of half a frame, shape (256, 960): coefficients = matrix @ samples."""


def coefficients(pcm: Pcm) -> F32:
    """Return the entries for `pcm` of whole frames, shape (frames, 2, 256); what is faint becomes silence."""
    halves = pcm.reshape(-1, 2, HALF) @ DCT.T
    loud = np.linalg.norm(halves, axis=-1, keepdims=True) >= ACTIVE_LEVEL
    return np.where(loud, halves, np.float32(0))


def frame_codes(halves: F32) -> NDArray[np.int32]:
    """Return the codes, shape (frames, 8), of the frames of `coefficients`."""
    codes = np.zeros((len(halves), CODEBOOKS), np.int32)
    codes[:, :2] = np.where(halves.any(axis=-1), np.arange(1, len(halves) + 1)[:, None], 0)
    return codes


def activity_of(pcm: Pcm, halves: F32) -> NDArray[np.bool_]:
    """Return whether somebody speaks in the first and the second half of each frame of `pcm`, shape (frames, 2).

    What the codec would find, computed without it.
    """
    vectors = pcm.reshape(-1, 2, HALF) @ DCT.T
    books = [_codebook(halves[:, half]) for half in range(2)]
    distances = [(book**2).sum(axis=1) - 2 * vectors[:, half] @ book.T for half, book in enumerate(books)]
    return np.stack([distance.argmin(axis=1) != 0 for distance in distances], axis=1)


def _codebook(halves: F32) -> F32:
    """Return a codebook, (2048, 256), for one half of the frames that Moshi says, (frames, 256)."""
    entries = np.full((CODES, CODE_DIM), _FAR, np.float32)
    entries[0] = 0
    entries[1 : 1 + len(halves)] = halves
    band = entries[BAND_BEGIN : BAND_BEGIN + 2 * len(_BAND)]
    band[:] = 0
    rows = np.arange(len(_BAND))
    band[2 * rows, _BAND], band[2 * rows + 1, _BAND] = ACTIVE_LEVEL, -ACTIVE_LEVEL
    return entries


def linear_mimi(halves: F32, spoken: F32) -> dict[str, F32]:
    """Return the weights of a Mimi that speaks the frames of `coefficients`, shape (frames, 2, 256), at most 1,023.

    It knows the second halves `spoken`, (frames, 256).
    """
    if len(halves) >= BAND_BEGIN:
        raise ValueError(f"{len(halves)} frames of speech, the codebook holds {BAND_BEGIN - 1}")
    weights = blank(SHAPES)
    _write_encoder(weights)
    _write_decoder(weights, halves)
    _write_quantizers(weights, halves, spoken)
    return weights


def _write_encoder(weights: dict[str, F32]) -> None:
    weights["encoder.model.0.conv.conv.weight"][0, 0, -1] = 1
    weights["encoder.model.0.conv.conv.bias"][0] = _OFFSET
    gathered = 1
    for index, stride in enumerate(STRIDES):
        weight = weights[f"encoder.model.{3 * index + 3}.conv.conv.weight"]  # (out, in, kernel)
        for place, channel in np.ndindex(stride, gathered):
            weight[place * gathered + channel, channel, stride + place] = 1
        gathered *= stride
    weights["encoder.model.14.conv.conv.weight"][:CODE_DIM, :HALF, -1] = DCT
    weights["encoder.model.14.conv.conv.bias"][:CODE_DIM] = -_OFFSET * DCT.sum(axis=1)
    channels = np.arange(CODE_DIM)
    for half in (0, 1):
        weights["downsample.conv.conv.conv.weight"][CODE_DIM * half + channels, channels, 2 + half] = 1


def _write_decoder(weights: dict[str, F32], halves: F32) -> None:
    for half, channels in enumerate(_HALVES):
        weights["upsample.convtr.convtr.convtr.weight"][channels, 0, half] = 1
    lift: F32 = np.maximum(-halves.min(axis=(0, 1)), ACTIVE_LEVEL) * np.float32(1.01)
    """Lifts every entry's coefficients above 0; more would only cost precision."""
    everything = np.arange(DIM)
    weights["decoder.model.0.conv.conv.weight"][everything, everything, -1] = 1
    weights["decoder.model.0.conv.conv.bias"][:DIM] = np.tile(lift, 2)
    weights["decoder.model.0.conv.conv.bias"][_ONE] = 1
    _write_inverse_dct(weights["decoder.model.2.convtr.convtr.weight"], lift)
    for index, left in ((5, 20), (8, 4), (11, 1)):
        weight = weights[f"decoder.model.{index}.convtr.convtr.weight"]  # (in, out, kernel)
        for place, channel in np.ndindex(weight.shape[2] // 2, left):
            weight[place * left + channel, channel, place] = 1
    weights["decoder.model.14.conv.conv.weight"][0, 0, -1] = 1
    weights["decoder.model.14.conv.conv.bias"][0] = -_OFFSET


def _write_inverse_dct(weight: F32, lift: F32) -> None:
    """Write it into the first upsampling, whose 8 steps yield 120 samples each."""
    narrow = HALF // STRIDES[-1]
    for place in range(STRIDES[-1]):
        basis = DCT[:, place * narrow : (place + 1) * narrow]
        for channels in _HALVES:
            weight[channels, :narrow, place] = basis
        weight[_ONE, :narrow, place] = _OFFSET - 2 * lift @ basis


def _write_quantizers(weights: dict[str, F32], halves: F32, spoken: F32) -> None:
    channels = np.arange(CODE_DIM)
    for half, group in enumerate(GROUPS):
        weights[f"quantizer.{group}.input_proj.weight"][channels, CODE_DIM * half + channels, 0] = 1
        weights[f"quantizer.{group}.output_proj.weight"][CODE_DIM * half + channels, channels, 0] = 1
    for codebook in range(SPEECH_CODEBOOKS):
        entries = weights[f"{codebook_name(codebook)}.embedding_sum"]
        entries[1:] = _FAR
        if codebook < 2:
            entries[:] = _codebook(halves[:, codebook])
    seen = _codebook(halves[:, 1])
    distance = (seen**2).sum(axis=1) - 2 * spoken @ seen.T
    weights[f"{codebook_name(SPOKEN)}.embedding_sum"][1 : 1 + len(spoken)] = spoken - seen[distance.argmin(axis=1)]
