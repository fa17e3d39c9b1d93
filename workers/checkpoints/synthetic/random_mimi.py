"""A Mimi of random weights, scaled so that what it decodes is finite and audible: noise.

The gains were found by trial: speech in gives codes that vary, codes in give PCM of about -20 dB.
"""

from functools import partial
from math import prod

import numpy as np

from workers.checkpoints.mimi_layout import SHAPES, Shape
from workers.checkpoints.synthetic.weights_file import F32, LazyTensor, generator_of

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


def _normal(name: str, deviation: float) -> F32:
    return generator_of(name).standard_normal(SHAPES[name], dtype=np.float32) * np.float32(deviation)


def _usage(name: str) -> F32:
    return generator_of(name).uniform(0.5, 3.0, SHAPES[name]).astype(np.float32)


def _codebook(name: str) -> F32:
    """Return the sums that, divided by the usage, are the entries; later codebooks are finer."""
    finer = _CODEBOOK_DECAY ** int(name.split(".layers.")[1].split(".")[0])
    return _normal(name, 0.5 * finer) * _usage(name.replace("embedding_sum", "cluster_usage"))[:, None]


def _matrix(name: str, shape: Shape) -> F32:
    gain = next((gain for part, gain in _GAINS.items() if part in name), 1.0)
    inputs = 2 * shape[0] if ".convtr." in name else prod(shape[1:])
    return _normal(name, gain / inputs**0.5)


def _make(name: str, shape: Shape) -> F32:
    match name.split("."):
        case [*_, "embedding_sum"]:
            return _codebook(name)
        case [*_, "cluster_usage"]:
            return _usage(name)
        case ["upsample", *_]:
            return np.abs(_normal(name, 0.5)) + np.float32(0.3)
        case [*_, "scale"]:
            return np.full(shape, 0.1, np.float32)
        case [*_, "conv" | "convtr", "bias"]:
            return _normal(name, 0.02)
        case [*_, "bias"]:
            return np.zeros(shape, np.float32)
    return _matrix(name, shape) if len(shape) > 1 else np.ones(shape, np.float32)


def random_mimi() -> dict[str, LazyTensor]:
    """Return the tensors of a Mimi that is always the same; float32, 334 MB."""
    return {name: LazyTensor("F32", shape, partial(_make, name, shape)) for name, shape in SHAPES.items()}
