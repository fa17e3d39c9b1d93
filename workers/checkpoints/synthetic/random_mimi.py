"""A Mimi of random weights, scaled so that what it decodes is finite and audible: noise.

The gains were found by trial: speech in gives codes that vary, codes in give PCM of about -20 dB.
"""

import zlib
from math import prod

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.mimi_layout import SHAPES, Shape
from workers.checkpoints.synthetic.weights_file import Tensor

_SEED = 0
_GAINS = {
    "encoder.model.0.": 4.0,
    "decoder.model.14.": 0.08,
    "downsample.": 1.0,
    "quantizer.": 1.0,
    ".block.1.": 1.2,
    ".block.3.": 0.6,
    ".model.": 1.4,
}
"""Standard deviation of a layer's output for an input of 1; the first that is part of the name counts."""
_CODEBOOK_DECAY = 0.9


def _random(name: str) -> np.random.Generator:
    """Each tensor has numbers of its own, whichever is made first."""
    return np.random.default_rng([_SEED, zlib.crc32(name.encode())])


def _normal(name: str, shape: Shape, deviation: float) -> NDArray[np.float32]:
    return _random(name).standard_normal(shape, dtype=np.float32) * np.float32(deviation)


def _usage(name: str) -> NDArray[np.float32]:
    return _random(name).uniform(0.5, 3.0, SHAPES[name]).astype(np.float32)


def _codebook(name: str) -> NDArray[np.float32]:
    """Return the sums that, divided by the usage, are the entries; later codebooks are finer."""
    finer = _CODEBOOK_DECAY ** int(name.split(".layers.")[1].split(".")[0])
    usage = _usage(name.replace("embedding_sum", "cluster_usage"))
    return _normal(name, SHAPES[name], 0.5 * finer) * usage[:, None]


def _fan(name: str, shape: Shape) -> int:
    """Return how many inputs meet in one output."""
    return 2 * shape[0] if ".convtr." in name else prod(shape[1:])


def _matrix(name: str, shape: Shape) -> NDArray[np.float32]:
    gain = next((gain for part, gain in _GAINS.items() if part in name), 1.0)
    return _normal(name, shape, gain / _fan(name, shape) ** 0.5)


def _vector(name: str, shape: Shape) -> NDArray[np.float32]:
    if name.endswith(".scale"):
        return np.full(shape, 0.1, np.float32)
    if name.endswith((".conv.bias", ".convtr.bias")):
        return _normal(name, shape, 0.02)
    return np.full(shape, 0.0 if name.endswith(".bias") else 1.0, np.float32)


def _make(name: str, shape: Shape) -> NDArray[np.float32]:
    if name.endswith("embedding_sum"):
        return _codebook(name)
    if name.endswith("cluster_usage"):
        return _usage(name)
    if name.startswith("upsample."):
        return np.abs(_normal(name, shape, 0.5)) + np.float32(0.3)
    return _matrix(name, shape) if len(shape) > 1 else _vector(name, shape)


def random_mimi() -> dict[str, Tensor]:
    """Return the tensors of a Mimi that is always the same; float32, 334 MB."""
    return {name: Tensor("F32", shape, lambda n=name, s=shape: _make(n, s)) for name, shape in SHAPES.items()}  # type: ignore[misc]
