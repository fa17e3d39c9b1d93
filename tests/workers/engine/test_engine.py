"""The batched step against the official one, and what it promises on top."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings

from tests.workers.engine.small import ARGMAX, Said, build, official, said, speech, talk
from tests.workers.rows import STORIES, A, B, C, Calls
from workers.engine.backbone import can_compile
from workers.engine.engine import Engine
from workers.engine.model import Model
from workers.engine.sampling import SamplingSettings
from workers.messages import SamplingChanges, Slot

Build = tuple[str, mx.Dtype, int | None]
TINY: Build = ("tiny", mx.float32, None)
SLOTS = 3


@cache
def expected(model: Build = TINY, call: int = 0, steps: int = 20) -> list[Said]:
    return official(build(*model), speech(call, steps + 1))


def calls_on(engine: Engine) -> Calls[Said]:
    return Calls(engine, speech, said)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["f32", "bf16"])
def test_every_row_says_what_the_official_model_says_alone(dtype: mx.Dtype) -> None:
    calls = calls_on(Engine(build("tiny", dtype), SLOTS, ARGMAX, context=64))
    calls.open(A)
    calls.step(A, times=2)
    calls.open(C)
    calls.step(A, C, times=5)
    calls.open(B)
    calls.step(B)
    calls.step(C, B)
    calls.close(C)
    calls.step(B, A, times=4)
    calls.open(C)
    calls.step(A, B, C, times=8)
    assert [len(transcript) for transcript in calls.transcripts] == [19, 6, 14, 8]
    calls.assert_like(partial(expected, ("tiny", dtype, None)))


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(mx.float32, None), *(pytest.param(mx.bfloat16, bits, marks=pytest.mark.slow) for bits in (4, 8))],
    ids=["f32", "q4", "q8"],
)
def test_a_larger_model_quantised_or_not(dtype: mx.Dtype, bits: int | None) -> None:
    wanted = [expected(("mid", dtype, bits), call, 3) for call in range(2)]  # before the engine takes the weights over
    calls = calls_on(Engine(build("mid", dtype, bits), 2, ARGMAX, context=64))
    calls.open(A)
    calls.open(B)
    calls.step(A)
    calls.step(A, B, times=2)
    assert calls.transcripts == [wanted[0], wanted[1][:2]]


@cache
def shared_engine() -> Engine:
    return Engine(build(), SLOTS, ARGMAX, context=64)


@settings(max_examples=15, deadline=None)  # an example is twelve steps
@given(STORIES)
def test_calls_may_come_go_and_pause_at_any_step(story: Sequence[tuple[Slot, bool, set[Slot]]]) -> None:
    """Before each step one slot may be opened or closed; any of the open ones take part."""
    calls = calls_on(shared_engine())
    for slot, changes, present in story:
        if changes:
            (calls.close if slot in calls.calls else calls.open)(slot)
        calls.step(*present & calls.calls.keys())
    for slot in list(calls.calls):
        calls.close(slot)
    calls.assert_like(partial(expected, TINY))


def test_the_same_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.engine.can_compile", lambda: False)
    assert can_compile(), "here it does compile"
    engine = Engine(build(), 1, ARGMAX, context=64)
    engine.open(A)
    assert [said(step) for step in talk(engine, A, speech(0, 6))] == expected()[:6]


def test_warming_up_leaves_no_trace() -> None:
    engine = Engine(build(), 2, ARGMAX, context=64)
    engine.warm()
    engine.open(B)
    before = talk(engine, B, speech(0, 3))
    engine.warm()
    after = talk(engine, B, speech(0, 6)[3:])
    assert [said(step) for step in before + after] == expected()[:6]


def test_a_step_writes_the_kv_cache_in_place() -> None:
    engine = Engine(build(), 2, ARGMAX, context=3000)
    engine.open(A)
    talk(engine, A, speech(0, 3))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    talk(engine, A, speech(0, 3))
    one_layer = 2 * 3000 * 128 * 4
    assert mx.get_peak_memory() - before < one_layer


def test_a_seeded_call_does_not_depend_on_its_neighbours() -> None:
    def run(others: int, sampling: SamplingChanges = ()) -> list[Said]:
        engine = Engine(build(), 4, SamplingSettings(repetition_penalty=1.2), context=64)
        neighbours = [Slot(slot) for slot in range(1, others + 1)]
        for slot in neighbours:
            engine.open(slot, sampling=sampling)
        engine.open(A, seed=7)
        transcript = []
        for step, frame in enumerate(speech(0, 12)):
            crowd = {slot: speech(slot, 12)[step] for slot in neighbours if step % 3}
            transcript.append(said(engine.step({A: frame, **crowd})[A]))
        return transcript

    alone = run(0)
    assert run(3) == alone
    assert run(3, (("text_top_k", 3.0), ("padding_bias", 1.0), ("audio_temperature", 0.0))) == alone
    assert len({text for text, _ in alone}) > 3


def test_each_row_has_sampling_settings_of_its_own() -> None:
    engine = Engine(build(), 2, SamplingSettings(), context=64)
    engine.open(A, seed=1)
    argmax = ("text_temperature", 0.0), ("audio_temperature", 0.0)
    engine.open(B, sampling=(*argmax, ("text_top_k", 5.0), ("audio_top_k", 9.0)))
    both = [engine.step({A: frame, B: frame}) for frame in speech(0, 8)]
    assert [said(step[B]) for step in both] == expected()[:8]
    assert [said(step[A]) for step in both] != expected()[:8]


BAD = {
    "too large": np.full(8, 2048, np.int32),
    "negative": np.full(8, -1, np.int32),
    "too few": np.zeros(7, np.int32),
    "shape": np.zeros((1, 8), np.int32),
    "not integers": np.zeros(8, np.float32),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_frame_ends_one_call_only(bad: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
    engine = shared_engine()
    engine.open(A)
    engine.open(B)
    frames = speech(0, 4)
    first = engine.step({A: frames[0], B: bad, C: frames[0]})
    assert first[B].fault
    assert first[C].fault == "not open"
    assert engine.step({}) == {}
    engine.close(B)
    rest = talk(engine, A, frames[1:])
    engine.close(A)
    assert [said(step) for step in (first[A], *rest)] == expected()[:4]


def test_what_is_not_a_number_stays_in_its_row_and_is_cleared() -> None:
    engine = Engine(build(), 2, ARGMAX, context=64)
    engine.open(A)
    engine.open(B)
    transcript = []
    for number, frame in enumerate(speech(0, 6)):
        if number == 3:
            engine._kv_cache.values[0][B, :, 0] = mx.nan
        steps = engine.step({A: frame, B: frame} if number < 4 else {A: frame})
        transcript.append(said(steps[A]))
        assert bool(number < 4 and steps[B].fault) == (number == 3)
    engine.close(B)
    engine.open(B)
    assert transcript == expected()[:6]
    assert [said(step) for step in talk(engine, B, speech(0, 6))] == transcript


graphs_made: set[tuple[object, ...]] = set()


class NotingModel(Model):
    """Notes what fixes the graph of each step."""

    def step(self, tokens: mx.array, *rest: Any) -> Any:
        graphs_made.add((tokens.shape, *rest[-2:]))
        return super().step(tokens, *rest)


@pytest.mark.parametrize(
    "sampling",
    [(("text_temperature", 0.0),), (("audio_top_k", 9.0),), (("repetition_penalty", 1.2), ("text_top_k", 1000.0))],
    ids=lambda changes: changes[0][0],
)
def test_no_call_needs_a_graph_that_is_not_warm(sampling: SamplingChanges, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.engine.can_compile", lambda: False)
    monkeypatch.setattr("workers.engine.engine.Model", NotingModel)
    engine = Engine(build(), 2, SamplingSettings(), context=64)
    engine.warm()
    warm = set(graphs_made)
    engine.open(A)
    engine.open(B, sampling=sampling)
    steps = [engine.step({A: frame, B: frame}) for frame in speech(0, 3)]
    engine.close(B)
    steps += [engine.step({A: frame}) for frame in speech(0, 3)]
    assert graphs_made == warm
    assert not any(step[A].fault for step in steps)


def test_started_again_few_graphs_are_warm_and_serve_any_call_until_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.engine.engine.can_compile", lambda: False)
    monkeypatch.setattr("workers.engine.engine.Model", NotingModel)
    engine = Engine(build(), 2, ARGMAX, context=1_000)
    graphs_made.clear()
    engine.warm(rest_later=True)
    warm, left = set(graphs_made), len(engine.cold)
    assert left == 2 * len(warm) > 0, "of three windows the largest"
    engine.open(A)
    before = talk(engine, A, speech(0, 3))
    assert graphs_made == warm
    while engine.cold:
        engine.warm_next()
    assert len(graphs_made) == len(warm) + left
    after = talk(engine, A, speech(0, 6)[3:])
    assert len(graphs_made) == len(warm) + left
    assert [said(step) for step in before + after] == expected()[:6]
