"""The batched step against the official one, and against the whole computed anew beyond the window."""

from collections.abc import Sequence
from functools import cache, partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from moshi_mlx.models import Lm

from tests.workers.rows import STORIES, A, B, C, Calls
from tests.workers.transcriber.small import TEXT, build, official, outcome, speech, written
from workers.messages import CodeArray, Slot
from workers.transcriber.transcriber import Transcriber

SLOTS = 3
Heard = tuple[int, bool]
Build = tuple[mx.Dtype, int | None]
F32: Build = (mx.float32, None)


@cache
def expected(model: Build, call: int, steps: int = 20) -> list[Heard]:
    return official(build(*model), speech(call, steps + 1))


def calls_on(transcriber: Transcriber) -> Calls[Heard]:
    return Calls(transcriber, speech, outcome)


@pytest.mark.parametrize(
    "model", [F32, (mx.bfloat16, None), (mx.bfloat16, 4), (mx.bfloat16, 8)], ids=["f32", "bf16", "q4", "q8"]
)
def test_every_row_writes_what_the_official_model_writes_alone(model: Build) -> None:
    wanted = [expected(model, call) for call in range(4)]  # before the transcriber takes the weights over
    calls = calls_on(Transcriber(build(*model, context=64), SLOTS))
    calls.open(A)
    calls.step(A, times=2)
    calls.open(C)
    calls.step(A, C, times=5)
    calls.open(B)
    calls.step(B)
    calls.step(C, B)
    calls.open(C)
    calls.step(B, A, C, times=11)
    assert [len(transcript) for transcript in calls.transcripts] == [18, 6, 13, 11]
    calls.assert_like(partial(expected, model))
    turns = [over for transcript in wanted for _, over in transcript]
    assert True in turns
    assert False in turns


@cache
def shared() -> Transcriber:
    return Transcriber(build(context=64), SLOTS)


@settings(max_examples=15, deadline=None)  # an example is twelve steps
@given(STORIES)
def test_calls_may_come_go_and_pause_at_any_step(story: Sequence[tuple[Slot, bool, set[Slot]]]) -> None:
    for call in range(12):
        expected(F32, call)
    calls = calls_on(shared())
    for slot, begins, present in story:
        if begins or slot not in calls.calls:
            calls.open(slot)
        calls.step(*present & calls.calls.keys())
    calls.assert_like(partial(expected, F32))


def test_up_to_the_context_it_is_the_official_model() -> None:
    wanted = official(build(context=24), speech(7, 25))
    assert written(Transcriber(build(context=24), 1), speech(7, 24)) == wanted[:24]


def test_beyond_the_window_a_step_reads_exactly_the_last_context_steps() -> None:
    """The official cache shows one key more there (MOSHI.md §3), so the whole is computed anew, with a mask."""
    lm, frames = build(context=16), speech(3, 60)
    steps = written(Transcriber(lm, 2), frames, B)
    texts = [text for text, _ in steps]
    read = np.concatenate([np.array([[TEXT, *[2048] * 32]]), np.c_[texts[:-1], frames[1:]]])
    assert recomputed(lm, read.astype(np.int32), 16) == steps


def recomputed(lm: Lm, read: CodeArray, context: int) -> list[Heard]:
    x = lm.text_emb(mx.array(read[None, :, 0]))
    for codebook, table in enumerate(lm.audio_embs):
        x = x + table(mx.array(read[None, :, 1 + codebook]))
    lag = mx.arange(len(read))[:, None] - mx.arange(len(read))[None]
    mask = (lag >= 0) & (lag < context)
    for layer in lm.transformer.layers:
        attention = layer.self_attn
        qkv = attention.in_proj(layer.norm1(x)).reshape(1, len(read), 3, 4, 32).transpose(2, 0, 3, 1, 4)
        q, k, v = attention.rope(qkv[0]), attention.rope(qkv[1]), qkv[2]
        seen = mx.fast.scaled_dot_product_attention(q, k, v, scale=attention.scale, mask=mask)
        x = x + attention.out_proj(seen.swapaxes(1, 2).reshape(x.shape))
        x = x + layer.gating(layer.norm2(x))
    hidden = lm.out_norm(x)[0]
    text = mx.argmax(lm.text_linear(hidden), axis=-1)
    over = mx.softmax(lm.extra_heads[2](hidden), axis=-1)[:, 0] > 0.5
    return [(int(token), bool(turn)) for token, turn in zip(text.tolist(), over.tolist(), strict=True)]  # type: ignore[arg-type]


def test_a_checkpoint_without_extra_heads_tells_no_turns() -> None:
    wanted = official(build(heads=0), speech(2, 9))[:8]
    assert written(Transcriber(build(heads=0), 1), speech(2, 8)) == wanted
    assert not any(over for _, over in wanted)


BAD = {
    "too large": np.full(32, 2048, np.int32),
    "negative": np.full(32, -1, np.int32),
    "eight": np.zeros(8, np.int32),
    "not integers": np.zeros(32, np.float32),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_frame_is_refused_and_nobody_moves(bad: CodeArray) -> None:
    wanted = expected(F32, 0)[:4]
    transcriber = shared()
    transcriber.open(A)
    transcriber.open(B)
    frames = speech(0, 4)
    first = transcriber.step({A: frames[0], B: bad})
    assert first[B].fault
    rest = [transcriber.step({A: frame, B: frame}) for frame in frames[1:]]
    assert [outcome(step[A]) for step in (first, *rest)] == wanted


def test_what_is_not_a_number_stays_in_its_row_and_is_cleared() -> None:
    wanted = expected(F32, 0)[:6]
    transcriber = Transcriber(build(context=64), 2)
    transcriber.open(A)
    transcriber.open(B)
    steps = []
    for number, frame in enumerate(speech(0, 6)):
        if number == 3:
            transcriber._kv_cache.values[0][B, :, 0] = mx.nan
        both = transcriber.step({A: frame, B: frame})
        steps.append(outcome(both[A]))
        assert bool(both[B].fault) == (number == 3)
        if both[B].fault:
            transcriber.open(B)
    assert steps == wanted
    assert written(transcriber, speech(0, 6), B) == wanted


def test_warming_up_leaves_no_trace_and_makes_every_graph() -> None:
    wanted = expected(F32, 0)[:6]
    transcriber = Transcriber(build(context=64), 2)
    transcriber.warm()
    before = written(transcriber, speech(0, 3), B)
    transcriber.warm()
    after = [outcome(transcriber.step({B: frame})[B]) for frame in speech(0, 6)[3:]]
    assert before + after == wanted
