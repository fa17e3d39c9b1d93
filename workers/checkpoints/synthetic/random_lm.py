"""A Moshi of random weights, in any of the forms a checkpoint has.

What is quantised follows MLX's affine scheme, weight = scale * q + bias with one scale and bias for each group along a
row (https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html): with random weights the
packed bits may as well be random themselves.
"""

from collections.abc import Mapping

import numpy as np

from workers.checkpoints.synthetic.lm_layout import Shape, Shapes, tensors_of
from workers.checkpoints.synthetic.tokenizer_file import BYTES, SPACE, SPECIAL, Piece, PieceType
from workers.checkpoints.synthetic.weights_file import F32, Array, LazyTensor, generator_of, to_bf16

_GROUPS = {4: 32, 8: 64}
"""Bits a weight: weights a group, as in Kyutai's files."""
_HEAD_GAIN = 4.0
"""Standard deviation of the logits, so that sampling prefers some tokens to others."""
_CONSONANTS, _VOWELS = "bdfgklmnprstvwz", "aeiou"


def _limit(name: str, shape: Shape) -> float:
    """Return the largest weight: uniform weights up to it keep the scale of their input."""
    head = name.endswith("linear_out.weight") and "gating" not in name
    gain = _HEAD_GAIN if head or name.startswith("text_linear") else 1.0
    return gain * float((3 / shape[1]) ** 0.5)


def values(name: str, shape: Shape) -> F32:
    """Return a tensor by its name in moshi_mlx; the same for the same name and shape."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    numbers = generator_of(name).random(shape, dtype=np.float32)
    numbers -= np.float32(0.5)
    numbers *= np.float32(2 * _limit(name, shape))
    return numbers


def _constant(value: float, shape: Shape) -> Array:
    return to_bf16(np.full(shape, value, np.float32))


def _tensors(name: str, shape: Shape, weights: str) -> dict[str, LazyTensor]:
    """Return one tensor, or weight, scales and biases of a quantised matrix; what is no matrix is bfloat16 then."""
    if weights == "f32":
        return {name: LazyTensor("F32", shape, lambda: values(name, shape))}
    if weights == "bf16" or len(shape) == 1:
        return {name: LazyTensor("BF16", shape, lambda: to_bf16(values(name, shape)))}
    bits = int(weights[1:])
    packed, groups = (shape[0], shape[1] * bits // 32), (shape[0], shape[1] // _GROUPS[bits])
    layer, limit = name.removesuffix(".weight"), _limit(name, shape)
    scale = 2 * limit / (2**bits - 1)
    return {
        name: LazyTensor("U32", packed, lambda: generator_of(name).integers(0, 1 << 32, packed, np.uint32)),
        f"{layer}.scales": LazyTensor("BF16", groups, lambda: _constant(scale, groups)),
        f"{layer}.biases": LazyTensor("BF16", groups, lambda: _constant(-limit, groups)),
    }


def random_lm(shapes: Shapes, weights: str) -> dict[str, LazyTensor]:
    """Return the tensors of a Moshi that is always the same for the same shapes and weights: f32, bf16, q4 or q8."""
    return random_tensors(tensors_of(shapes), weights)


def random_tensors(shapes: Mapping[str, Shape], weights: str) -> dict[str, LazyTensor]:
    """Return tensors of these names and shapes."""
    stored = (_tensors(name, shape, weights) for name, shape in shapes.items())
    return {name: tensor for tensors in stored for name, tensor in tensors.items()}


def _syllables(number: int) -> str:
    text = ""
    while number or not text:
        number, consonant = divmod(number, len(_CONSONANTS))
        number, vowel = divmod(number, len(_VOWELS))
        text += _CONSONANTS[consonant] + _VOWELS[vowel]
    return text


def random_pieces(text_card: int) -> list[Piece]:
    """Return a vocabulary: the special pieces, the bytes, a space, then syllables, every other one beginning a word."""
    count = text_card - len(SPECIAL) - len(BYTES) - 1
    words = [(SPACE * (number % 2) + _syllables(number // 2), PieceType.NORMAL) for number in range(count)]
    return [*SPECIAL, *BYTES, (SPACE, PieceType.NORMAL), *words]
