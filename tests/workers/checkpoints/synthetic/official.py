"""Kyutai's own code on a checkpoint folder: `moshi_mlx.models.Lm` and `LmGen`, untouched."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.nn.layers.quantized import quantize
from mlx.utils import tree_flatten
from moshi_mlx.models import Lm, LmConfig, LmGen
from moshi_mlx.utils import Sampler
from numpy.typing import NDArray

from workers.checkpoints.synthetic.script import Activity
from workers.messages import Pcm

Codes = NDArray[np.int32]
_GROUPS = {4: 32, 8: 64}


def load(folder: Path, context: int | None = None, bits: int | None = None) -> Lm:
    """Load the model as `moshi_mlx.run_inference` does; with `bits`, quantise it then.

    With `context`, its KV cache wraps after as many steps.
    """
    config = json.loads((folder / "config.json").read_text())
    settings = LmConfig.from_config_dict(config)
    if context is not None:
        settings.transformer.context = settings.transformer.max_seq_len = context
    lm, path = Lm(settings), folder / config["moshi_name"]
    for stored, group in _GROUPS.items():
        if path.name.endswith(f".q{stored}.safetensors"):
            quantize(lm, bits=stored, group_size=group)
    lm.load_weights(str(path), strict=True)
    if bits is not None:
        quantize(lm, bits=bits, group_size=_GROUPS[bits])
    return lm


def parameters_of(lm: Lm) -> dict[str, mx.array]:
    return dict(tree_flatten(lm.parameters()))


def converse(lm: Lm, caller: Codes, temperature: float = 0.0) -> tuple[list[int], Codes]:
    """Feed the caller's codes, shape (frames, 8), one frame a step.

    Return the text token of every step, and the frame that every step but the first completes, (frames - 1, 8).
    """
    sampler = Sampler(temp=temperature)
    generator = LmGen(lm, max_steps=len(caller) + 1, text_sampler=sampler, audio_sampler=sampler)
    tokens, frames = [], []
    for frame in caller:
        text, _ = generator.step(mx.array(frame[None]))
        tokens.append(int(text.item()))
        last = generator.last_audio_tokens()
        if last is not None:
            frames.append(np.array(last)[0])
    return tokens, np.array(frames, np.int32)


def activity(codes: Codes) -> Activity:
    """Return whether somebody speaks in these codes of `linear_mimi`, shape (frames, 8)."""
    active: Activity = codes[:, :2] != 0
    return active


def byte_of(frame: Pcm) -> int | None:
    """Return the byte whose tone a frame is, shape (1920,); None when it is none.

    Its upper four bits are one of 16 frequencies 75 Hz apart from 400 Hz on, its lower ones from 1.7 kHz on.
    """
    heard = np.abs(np.fft.rfft(frame.reshape(2, -1))).min(axis=0)  # 25 Hz apart
    groups = heard[16:64:3], heard[68:116:3]
    high, low = (int(group.argmax()) for group in groups)
    return 16 * high + low if min(group.max() for group in groups) > 60 else None


def turns(*frames: int) -> Activity:
    """Silent, speaking, silent, speaking … for so many whole frames each."""
    speaks = [bool(turn % 2) for turn, count in enumerate(frames) for _ in range(count)]
    return np.repeat(np.array(speaks, bool)[:, None], 2, axis=1)


def as_heard_late(caller: Activity) -> Activity:
    """Return the caller as the official moshi_mlx hears them: a frame later, from their frame 0 on."""
    return np.concatenate([np.zeros((1, 2), bool), caller])[: len(caller)]
