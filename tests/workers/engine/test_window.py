"""Calls longer than the window.

The official cache cannot serve here (MOSHI.md §3), so the model is computed anew over the whole call, every position at
once, with a mask that lets each see itself and the `context` - 1 before it.
"""

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm
from moshi_mlx.utils import Sampler

from tests.workers.engine.small import ARGMAX, TINY, build, speech, talk
from workers.engine.delay_pattern import LogArray, StepResult
from workers.engine.engine import Engine
from workers.messages import Slot

CONTEXT = 16
SPEECH = speech(3, 40)
SLOT, OTHER = Slot(1), Slot(0)


def log_of(steps: list[StepResult]) -> LogArray:
    return np.stack([step.log for step in steps])


def tokens_read(log: LogArray) -> LogArray:
    """Return what each step read, from the delays and the log alone."""
    delays = TINY["delays"][1:]
    read = np.full((len(log), 17), 2048, np.int32)
    for step in range(len(log)):
        read[step, 0] = log[step - 1, 0] if step else 400
        for codebook, delay in enumerate(delays):
            own, frame = codebook < 8, step - delay
            if own and step - 1 >= delay:
                read[step, 1 + codebook] = log[step - 1, 1 + codebook]
            if not own and frame >= 1:
                read[step, 1 + codebook] = log[frame, 1 + codebook]
    return read


def recomputed(lm: Lm, read: LogArray) -> LogArray:
    """Return what each step samples under argmax, shape (steps, 9)."""
    x = lm.text_emb(mx.array(read[None, :, 0]))
    for codebook, table in enumerate(lm.audio_embs):
        x = x + table(mx.array(read[None, :, 1 + codebook]))
    lag = mx.arange(len(read))[:, None] - mx.arange(len(read))[None]
    mask = (lag >= 0) & (lag < CONTEXT)
    for layer in lm.transformer.layers:
        attention = layer.self_attn
        qkv = attention.in_proj(layer.norm1(x)).reshape(1, len(read), 3, 4, 32).transpose(2, 0, 3, 1, 4)
        q, k, v = attention.rope(qkv[0]), attention.rope(qkv[1]), qkv[2]
        seen = mx.fast.scaled_dot_product_attention(q, k, v, scale=attention.scale, mask=mask)
        x = x + attention.out_proj(seen.swapaxes(1, 2).reshape(x.shape))
        x = x + layer.gating(layer.norm2(x))
    hidden = lm.out_norm(x)
    text = mx.argmax(lm.text_linear(hidden), axis=-1)[0].astype(mx.int32)
    greedy = Sampler(temp=0.0)
    rows = []
    for step in range(len(read)):
        start = text[step : step + 1, None]
        codes = lm.depformer.sample(hidden[:, step : step + 1], greedy, start, lm.depformer_cache)
        rows.append(np.concatenate([np.array(start)[0], np.array(codes).reshape(-1)]))
    return np.stack(rows).astype(np.int32)


def test_past_the_window_a_step_reads_exactly_the_last_context_steps_whatever_others_prefill() -> None:
    lm = build(context=CONTEXT)
    engine = Engine(lm, 2, ARGMAX)
    engine.open(OTHER)
    before = talk(engine, OTHER, SPEECH[:20])
    engine.open(SLOT)
    engine.prefill(SLOT, log_of(before))
    log = log_of(before + talk(engine, OTHER, SPEECH[20:]))
    assert log[:, :9].tolist() == recomputed(lm, tokens_read(log)).tolist()
