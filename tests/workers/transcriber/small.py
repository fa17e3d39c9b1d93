"""Small models of speech-to-text with random weights, and the official `LmGen` to compare with."""

from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from moshi_mlx.models import Lm, LmConfig, LmGen
from moshi_mlx.utils import Sampler
from numpy.typing import NDArray

from tests.workers.rows import A
from workers.checkpoints.synthetic.lm_layout import Shapes
from workers.checkpoints.synthetic.stt import stt_config
from workers.engine.checkpoint import quantize_plain
from workers.messages import CodeArray, Slot
from workers.transcriber.transcriber import SpeechStep, Transcriber

TEXT = 400


def config(context: int = 750, heads: int = 4) -> dict[str, Any]:
    """Return a config.json like that of kyutai/stt-1b-en_fr, smaller."""
    return stt_config(Shapes(128, 4, 2, 64, 2, 2, 256, TEXT, context)) | {"extra_heads_num_heads": heads}


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


def near(seconds: float) -> Any:
    return pytest.approx(seconds)


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


def written(transcriber: Transcriber, frames: CodeArray, slot: Slot = A) -> list[tuple[int, bool]]:
    """Return the same of a new call in this slot, with these frames one after the other."""
    transcriber.open(slot)
    return [outcome(transcriber.step({slot: frame})[slot]) for frame in frames]


def outcome(step: SpeechStep) -> tuple[int, bool]:
    assert not step.fault
    return step.text_token, step.turn_over


def _official_step(generator: LmGen, frame: CodeArray) -> tuple[int, bool]:
    text, heads = generator.step_with_extra_heads(mx.array(frame[None]))
    return int(text[0].item()), len(heads) > 2 and heads[2].reshape(-1)[0].item() > 0.5
