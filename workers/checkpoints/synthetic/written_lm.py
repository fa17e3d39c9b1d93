"""What the Moshis have in common whose weights are written down: script and parrot.

Theory. Attention and MLP are zero, so the residual stream passes through the transformer unchanged: the state of the
KV ring has no influence, however long the call. What reaches the heads is the sum of the 17 embeddings, divided by its
root mean square (the last norm). Every sum has the same number of places at +-1, the rest 0, so that the norm is one
known factor, and a head's weights can be stated in terms of the sum itself. Logits are `SHARPNESS` for what was meant
and far less for everything else, so that sampling at any temperature in use says what argmax says.

Numbers are written as Golay patterns of 24 places. In the depformer slice k gets a pattern by `linear_in` or by the
embedding of the last token, and its `linear_out` is the matched filter of all 2,048 codes.
"""

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.golay import LENGTH, PATTERNS
from workers.checkpoints.synthetic.lm_layout import CARD, Shapes, tensors_of
from workers.messages import CODEBOOKS

Floats = NDArray[np.float32]

DIM = 256
SHARPNESS = 64.0
"""Logit of the token meant, in nats."""
_DEPFORMER_DIM = 64
_DEPFORMER_GATE = 128


def shapes_of(text_card: int) -> Shapes:
    """Return the shapes of the smallest Moshi that holds what these need and that can be quantised."""
    return Shapes(DIM, 4, 1, _DEPFORMER_DIM, 2, 1, _DEPFORMER_GATE, text_card=text_card)


def blank(shapes: Shapes) -> dict[str, Floats]:
    """Return all weights, with norms of 1 and everything else 0."""
    return {
        name: (np.ones if "norm" in name else np.zeros)(shape, np.float32) for name, shape in tensors_of(shapes).items()
    }


def norm_factor(places: int) -> float:
    """Return by how much the norm scales a sum with this many places at +-1."""
    return float((DIM / places) ** 0.5)


def match_codes(weights: dict[str, Floats]) -> None:
    """Make each slice of the depformer answer with the code whose pattern it gets."""
    for index in range(CODEBOOKS):
        weights[f"depformer.slices.{index}.linear_out.weight"][:, :LENGTH] = PATTERNS[:CARD] * SHARPNESS / LENGTH


def show(weights: dict[str, Floats], index: int, begin: int, factor: float) -> None:
    """Give slice `index` the pattern at place `begin` of the sum, scaled by the norm's `factor`."""
    place = np.arange(LENGTH)
    weights[f"depformer.slices.{index}.linear_in.weight"][place, begin + place] = 1 / factor
