"""Small models of speech-to-text with random weights, and the official `LmGen` to compare with."""

from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm, LmConfig, LmGen
from moshi_mlx.utils import Sampler
from numpy.typing import NDArray

from workers.engine.checkpoint import quantize_plain
from workers.messages import CodeArray

TEXT = 400


def config(context: int = 750, heads: int = 4) -> dict[str, Any]:
    """Return a config.json like that of kyutai/stt-1b-en_fr, smaller."""
    main = {"dim": 128, "num_heads": 4, "num_layers": 2, "causal": True, "layer_scale": None, "context": context}
    shape = {"max_period": 100_000.0, "positional_embedding": "rope", "card": 2048, "text_card": TEXT}
    streams = {"n_q": 32, "dep_q": 0, "delays": [0] * 33, "model_type": "stt", "hidden_scale": 4.125}
    depth = {"depformer_dim": 64, "depformer_num_heads": 2, "depformer_num_layers": 2, "depformer_pos_emb": "none"}
    extra = {"extra_heads_num_heads": heads, "extra_heads_dim": 6, "depformer_dim_feedforward": 256}
    timing = {"stt_config": {"audio_silence_prefix_seconds": 0.0, "audio_delay_seconds": 0.5}}
    return {**main, **shape, **streams, **depth, **extra, **timing}


@cache
def build(dtype: mx.Dtype = mx.float32, bits: int | None = None, context: int = 750, heads: int = 4) -> Lm:
    """Return a model with random weights, always the same ones."""
    mx.random.seed(1)
    lm = Lm(LmConfig.from_config_dict(config(context, heads)))
    for head in lm.extra_heads:
        head.weight = head.weight * 8  # so that the turns of a call change
    lm.set_dtype(dtype)
    if bits:
        quantize_plain(lm, bits)
    mx.eval(lm.parameters())
    return lm


def speech(call: int, steps: int) -> NDArray[np.int32]:
    """Return the codes of a caller, shape (steps, 32); each call has its own, longer ones begin alike."""
    return np.random.default_rng(call).integers(0, 2048, (steps, 32)).astype(np.int32)


def official(lm: Lm, heard: CodeArray) -> list[tuple[int, bool]]:
    """Return the text token of each step and whether the turn is over: `LmGen` fed with y[p] = x[p+1]."""
    for layer in lm.transformer_cache:
        layer.reset()
    greedy = Sampler(temp=0.0)
    generator = LmGen(lm, max_steps=len(heard) + 1, text_sampler=greedy, audio_sampler=greedy)
    return [_official_step(generator, frame) for frame in [*heard[1:], heard[0]]]


def _official_step(generator: LmGen, frame: CodeArray) -> tuple[int, bool]:
    text, heads = generator.step_with_extra_heads(mx.array(frame[None]))
    return int(text[0].item()), len(heads) > 2 and heads[2].reshape(-1)[0].item() > 0.5
