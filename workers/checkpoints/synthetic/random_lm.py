"""A Moshi of random weights, in any of the forms a checkpoint has.

What is quantised follows MLX's affine scheme, weight = scale * q + bias with one scale and bias for each group along a
row (https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html): with random weights the
packed bits may as well be drawn themselves.
"""

import zlib
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.lm_layout import Shape, Shapes, tensors_of
from workers.checkpoints.synthetic.tokenizer_file import BYTES, SPACE, SPECIAL, Kind, Piece
from workers.checkpoints.synthetic.weights_file import Array, Tensor, to_bf16

Weights = Literal["f32", "bf16", "q4", "q8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

_SEED = 0
_GROUPS = {4: 32, 8: 64}
"""Bits a weight: weights a group, as Kyutai's files have it."""
_HEAD_GAIN = 4.0
"""Standard deviation of the logits, so that sampling prefers some tokens to others."""
_CONSONANTS, _VOWELS = "bdfgklmnprstvwz", "aeiou"


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng([_SEED, zlib.crc32(name.encode())])


def _limit(name: str, shape: Shape) -> float:
    """Return the largest weight: uniform weights up to it keep the scale of their input."""
    head = name.endswith("linear_out.weight") and "gating" not in name
    gain = _HEAD_GAIN if head or name.startswith("text_linear") else 1.0
    return gain * float((3 / shape[1]) ** 0.5)


def _uniform(name: str, shape: Shape) -> NDArray[np.float32]:
    values = _random(name).random(shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(2 * _limit(name, shape))
    return values


def _full(name: str, shape: Shape) -> NDArray[np.float32]:
    return np.ones(shape, np.float32) if len(shape) == 1 else _uniform(name, shape)


def _float32(name: str, shape: Shape) -> dict[str, Tensor]:
    return {name: Tensor("F32", shape, lambda: _full(name, shape))}


def _bfloat16(name: str, shape: Shape) -> dict[str, Tensor]:
    return {name: Tensor("BF16", shape, lambda: to_bf16(_full(name, shape)))}


def _packed(name: str, shape: Shape) -> Array:
    return np.frombuffer(_random(name).bytes(4 * shape[0] * shape[1]), np.uint32).reshape(shape)


def _constant(value: float, shape: Shape) -> Array:
    return to_bf16(np.full(shape, value, np.float32))


def _quantised(name: str, shape: Shape, bits: int) -> dict[str, Tensor]:
    """Return weight, scales and biases in place of a matrix; what is no matrix stays bfloat16."""
    if len(shape) == 1:
        return _bfloat16(name, shape)
    packed, groups = (shape[0], shape[1] * bits // 32), (shape[0], shape[1] // _GROUPS[bits])
    layer, limit = name.removesuffix(".weight"), _limit(name, shape)
    scale = 2 * limit / (2**bits - 1)
    return {
        name: Tensor("U32", packed, lambda: _packed(name, packed)),
        f"{layer}.scales": Tensor("BF16", groups, lambda: _constant(scale, groups)),
        f"{layer}.biases": Tensor("BF16", groups, lambda: _constant(-limit, groups)),
    }


_FORMS: dict[Weights, Callable[[str, Shape], dict[str, Tensor]]] = {
    "f32": _float32,
    "bf16": _bfloat16,
    "q4": lambda name, shape: _quantised(name, shape, 4),
    "q8": lambda name, shape: _quantised(name, shape, 8),
}


def random_lm(shapes: Shapes, weights: Weights) -> dict[str, Tensor]:
    """Return the tensors of a Moshi that is always the same for the same shapes and weights."""
    tensors: dict[str, Tensor] = {}
    for name, shape in tensors_of(shapes).items():
        tensors |= _FORMS[weights](name, shape)
    return tensors


def _syllables(number: int) -> str:
    text = ""
    while number or not text:
        number, consonant = divmod(number, len(_CONSONANTS))
        number, vowel = divmod(number, len(_VOWELS))
        text += _CONSONANTS[consonant] + _VOWELS[vowel]
    return text


def random_pieces(text_card: int) -> list[Piece]:
    """Return a vocabulary: the special pieces, the bytes, a space, then syllables, every other one beginning a word."""
    space = (SPACE, Kind.NORMAL)
    count = text_card - len(SPECIAL) - len(BYTES) - 1
    words = [(SPACE * (number % 2) + _syllables(number // 2), Kind.NORMAL) for number in range(count)]
    return [*SPECIAL, *BYTES, space, *words]
