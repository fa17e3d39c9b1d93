"""Small Moshis with random weights, and the official `LmGen` to compare with."""

from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from moshi_mlx.models import Lm, LmConfig, LmGen
from moshi_mlx.utils import Sampler
from numpy.typing import NDArray

from workers.engine.delay_pattern import StepResult
from workers.engine.engine import Engine
from workers.engine.sampling import SamplingSettings
from workers.messages import CodeArray, Slot

ARGMAX = SamplingSettings(text_temperature=0.0, audio_temperature=0.0)
Said = tuple[int, list[int] | None]
"""What one step brought: the text token, and the frame where there is one."""


def config(dim: int, heads: int, layers: int, depth_dim: int, text: int, context: int = 3000) -> dict[str, Any]:
    """Return a config.json in Kyutai's layout."""
    main = {"dim": dim, "num_heads": heads, "num_layers": layers, "causal": True, "layer_scale": None}
    shape = {"context": context, "max_period": 10_000, "positional_embedding": "rope"}
    depth = {"depformer_dim": depth_dim, "depformer_num_heads": 2, "depformer_num_layers": 2}
    more = {"depformer_dim_feedforward": 4 * depth_dim, "depformer_pos_emb": "none", "dep_q": 8, "n_q": 16}
    vocabulary = {"card": 2048, "text_card": text, "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1]}
    return {**main, **shape, **depth, **more, **vocabulary}


TINY = config(128, 4, 2, 64, 400)
MID = config(256, 4, 3, 256, 1000)
"""Every width is a multiple of 64, so that all of it can be quantised."""
SHAPES = {"tiny": TINY, "mid": MID}


@cache
def build(name: str = "tiny", dtype: mx.Dtype = mx.float32, bits: int | None = None, context: int = 3000) -> Lm:
    """Return a Moshi with random weights, always the same ones."""
    mx.random.seed(1)
    lm = Lm(LmConfig.from_config_dict({**SHAPES[name], "context": context}))
    lm.set_dtype(dtype)
    if bits:
        nn.quantize(lm, bits=bits, group_size={4: 32, 8: 64}[bits])  # type: ignore[attr-defined]
    mx.eval(lm.parameters())
    return lm


def speech(call: int, steps: int) -> NDArray[np.int32]:
    """Return the codes of a caller, shape (steps, 8); each call has its own, longer ones begin alike."""
    return np.random.default_rng(call).integers(0, 2048, (steps, 8)).astype(np.int32)


def talk(engine: Engine, slot: Slot, heard: CodeArray) -> list[StepResult]:
    """Step one call alone with these frames."""
    return [engine.step({slot: frame})[slot] for frame in heard]


def said(step: StepResult) -> Said:
    assert not step.fault
    return step.text_token, None if step.codes is None else step.codes.tolist()


def official(lm: Lm, heard: CodeArray, text: Sampler | None = None) -> list[Said]:
    """Return what the official `LmGen` says to the frames x[0], x[1], …: fed with y[p] = x[p+1], under argmax.

    `text` replaces what samples its text tokens.
    """
    for layer in lm.transformer_cache:
        layer.reset()
    greedy = Sampler(temp=0.0)
    generator = LmGen(lm, max_steps=len(heard) + 1, text_sampler=text or greedy, audio_sampler=greedy)
    return [_official_step(generator, frame) for frame in heard[1:]]


def _official_step(generator: LmGen, frame: CodeArray) -> Said:
    text = generator.step(mx.array(frame[None]))[0]
    codes = generator.last_audio_tokens()
    return int(text.item()), None if codes is None else np.array(codes)[0].tolist()
