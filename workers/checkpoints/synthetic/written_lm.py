"""What script and parrot share: Moshis whose weights are written down.

Attention and MLP are zero, so the residual stream passes through the transformer unchanged: the KV cache has no
influence, however long the call. What reaches the heads is the sum of the 17 embeddings, divided by its root mean
square (the last norm). Every sum has the same number of places at +-1, the rest 0, so that the norm is one known
factor, and a head's weights can be stated in terms of the sum itself. Logits are `SHARPNESS` for what was meant and far
less for everything else, so that sampling at any temperature in use gives what argmax gives.

A number 0..2047 is written as one of the 2,048 words of the extended binary Golay code, 24 places of +1 and -1, and
read back with a matched filter: the product with its own pattern is 24, with any other at most 8, because two words
differ in 8, 12, 16 or 24 places. A word is the product of two polynomials over GF(2), the number's 11 bits and the
generator, and a parity bit (MacWilliams and Sloane, The Theory of Error-Correcting Codes, chapter 2). In the depformer
slice k gets a pattern by `linear_in` or by the embedding of the last token, and its `linear_out` is the matched filter
of all 2,048 codes.
"""

import numpy as np

from workers.checkpoints.synthetic.lm_layout import Shapes
from workers.checkpoints.synthetic.weights_file import F32
from workers.messages import CODEBOOKS, CODES

DIM = 256
SHARPNESS = 64.0
"""Logit of the token meant, in nats."""
LENGTH = 24
"""Places of a pattern."""
_BITS = 11
_GENERATOR = (1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1)
"""1 + x^2 + x^4 + x^5 + x^6 + x^10 + x^11."""


def _golay_patterns() -> F32:
    powers = np.zeros((_BITS, LENGTH - 1), np.int64)  # the words of the numbers 1, 2, 4 … 1024 without parity
    for shift in range(_BITS):
        powers[shift, shift : shift + len(_GENERATOR)] = _GENERATOR
    bits = np.arange(CODES)[:, None] >> np.arange(_BITS) & 1
    words = bits @ powers % 2
    parity = words.sum(axis=1, keepdims=True) % 2
    return (1 - 2 * np.concatenate([words, parity], axis=1)).astype(np.float32)


PATTERNS = _golay_patterns()
"""The pattern of each number, +1 or -1, shape (2048, 24); number 0 is all +1."""


def shapes_of(text_card: int) -> Shapes:
    """Return the shapes of the smallest Moshi that holds what these need and that can be quantised."""
    return Shapes(DIM, 4, 1, 64, 2, 1, 192, text_card=text_card)


def norm_factor(places: int) -> float:
    """Return by how much the norm scales a sum with this many places at +-1."""
    return float((DIM / places) ** 0.5)


def write_matched_filters(weights: dict[str, F32]) -> None:
    """Make each slice of the depformer answer with the code whose pattern it gets."""
    for index in range(CODEBOOKS):
        weights[f"depformer.slices.{index}.linear_out.weight"][:, :LENGTH] = PATTERNS * SHARPNESS / LENGTH


def connect(weights: dict[str, F32], index: int, begin: int, factor: float) -> None:
    """Give slice `index` the pattern at place `begin` of the sum, scaled by the norm's `factor`."""
    place = np.arange(LENGTH)
    weights[f"depformer.slices.{index}.linear_in.weight"][place, begin + place] = 1 / factor
