"""A call that goes on in another engine says what it would have said: against the official model, or computed anew."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from tests.workers.engine.small import ARGMAX, build, official, speech
from tests.workers.engine.test_prompt_steps import expected as after_prompt
from tests.workers.engine.test_prompt_steps import prepare, prompt_of
from tests.workers.engine.test_window import recomputed, tokens_read
from workers.control_messages import Relink
from workers.engine.delay_pattern import LogArray, parse_log
from workers.engine.engine import Engine
from workers.engine.prompt_queue import PromptQueue
from workers.engine.sampling import SamplerState, SamplingSettings
from workers.engine.stage import EngineStage
from workers.messages import (
    CallPersona,
    Close,
    CodeArray,
    Codes,
    Epoch,
    Failed,
    Message,
    Open,
    PipelineMessage,
    Resume,
    Resumed,
    Slot,
    Stage,
)

A, B = Slot(0), Slot(1)
ONE = Epoch(1)
STEPS, CONTEXT = 40, 16
PLENTY_S = 1e6
Tokens = list[list[int]]
SAMPLED = SamplingSettings(repetition_penalty=1.3)


class Calls:
    """A stage with an engine of two slots, and what each call has said."""

    def __init__(self, engine: Engine) -> None:
        self.now = 100.0
        self.prompts = PromptQueue(engine, clock=lambda: self.now)
        self.stage = EngineStage(engine, None, lambda: self.now, self.prompts)
        self.said: dict[Slot, list[Codes]] = {A: [], B: []}
        self.answers: list[PipelineMessage] = []

    def receive(self, message: Message) -> None:
        self._sort(self.stage.receive(message))

    def work(self) -> None:
        """Work until nothing is due, however long it takes."""
        while (due_s := self.stage.due_s()) is not None:
            self.now = max(self.now, due_s)
            self._sort(self.stage.work())

    def hear(self, slot: Slot, frames: Iterable[CodeArray]) -> None:
        for seq, frame in enumerate(frames):
            self.receive(Codes(slot, ONE, seq, frame))
            self.work()

    def resume(self, message: Resume, *, work: bool = True) -> None:
        self.receive(message)
        self.receive(Resumed(message.slot, ONE, 0, 0))
        if work:
            self.work()

    def _sort(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if isinstance(message, Codes):
                self.said[message.slot].append(message)
            elif isinstance(message, Resumed | Failed):
                self.answers.append(message)


def log_of(codes: Sequence[Codes]) -> bytes:
    return b"".join(one.tokens for one in codes)


def frames(codes: Sequence[Codes]) -> list[tuple[int, list[int] | None]]:
    """The text token of each step and the frame that it completed."""
    texts = parse_log(log_of(codes))[:, 0].tolist()
    return [(text, None if one.codes is None else one.codes.tolist()) for text, one in zip(texts, codes, strict=True)]


def resumed(
    log: bytes, slot: Slot = A, seed: int | None = None, budget_s: float = PLENTY_S, prompt: str = ""
) -> Resume:
    return Resume(slot, ONE, log, 0, budget_s, seed=seed, persona=CallPersona(prompt=prompt))


BUILDS = {"f32": ("tiny", mx.float32, None), "bf16": ("tiny", mx.bfloat16, None), "q4": ("mid", mx.bfloat16, 4)}


@pytest.mark.parametrize("kind", BUILDS)
def test_a_call_resumed_twice_says_what_the_official_model_says_whatever_a_neighbour_does(kind: str) -> None:
    name, dtype, bits = BUILDS[kind]
    lm, heard, steps = build(name, dtype, bits), speech(0, 25), 20 if name == "tiny" else 9
    wanted = [official(lm, speech(call, steps + 1)) for call in range(2)]
    neighbours, said, log = Calls(Engine(lm, 2, ARGMAX, context=64)), [], b""
    neighbours.receive(Open(B, ONE))
    for engine, (first, last) in enumerate([(0, 3), (3, 6), (6, steps)]):
        calls = Calls(Engine(lm, 2, ARGMAX, context=64)) if engine < 2 else neighbours
        calls.hear(B, speech(1, 4)) if calls is neighbours else None
        calls.receive(Open(A, ONE)) if not log else calls.resume(resumed(log))
        for number in range(first, last):
            calls.receive(Codes(A, ONE, number, heard[number]))
            if calls is neighbours and len(calls.said[B]) < steps:
                calls.receive(Codes(B, ONE, number, speech(1, 25)[len(calls.said[B])]))
            calls.work()
        said += calls.said[A]
        log = log_of(said)
    assert frames(said) == wanted[0]
    assert frames(neighbours.said[B]) == wanted[1][: len(neighbours.said[B])]


@pytest.mark.parametrize("context", [64, CONTEXT], ids=["within the context", "past it"])
def test_a_seeded_call_goes_on_with_the_same_random_numbers(context: int) -> None:
    lm, heard = build(context=context), speech(3, STEPS)
    whole, again = Calls(Engine(lm, 2, SAMPLED)), Calls(Engine(lm, 2, SAMPLED))
    whole.receive(Open(A, ONE, seed=5))
    whole.hear(A, heard)
    for known in (1, 9, 31):
        again.said[B] = []
        again.resume(resumed(log_of(whole.said[A][:known]), B, seed=5))
        again.hear(B, heard[known:])
        assert frames(again.said[B]) == frames(whole.said[A][known:])
        assert again.answers.pop() == Resumed(B, ONE, known, 0)
    assert len({text for text, _ in frames(whole.said[A])}) > 5


@pytest.mark.parametrize("voice", ["none", "wav", "pt"])
def test_a_call_that_began_with_a_prompt_goes_on_behind_it(voice: str) -> None:
    wanted = after_prompt("told", voice, 0)
    log, said = b"", []
    for known, heard in [(0, speech(0, 11)[:1]), (1, speech(0, 11)[1:5]), (5, speech(0, 11)[5:])]:
        engine = Engine(build(), 2, ARGMAX, 64, takes_prompts=True)
        prepare(engine, "ada", prompt_of("told", voice))
        calls = Calls(engine)
        opened = Open(A, ONE, persona=CallPersona(prompt="ada"))
        calls.resume(resumed(log, prompt="ada")) if known else calls.receive(opened)
        calls.hear(A, heard)
        said += calls.said[A]
        log = log_of(said)
    spoken = frames(said)
    assert [(text, after or []) for (text, _), (_, after) in pairwise(spoken)] == wanted


@pytest.mark.parametrize(("budget_s", "left_out", "skipped"), [(PLENTY_S, 7, 7), (0.0, STEPS - CONTEXT, 0)])
def test_what_is_left_out_is_as_if_it_had_never_been_and_no_more_than_the_context_allows(
    budget_s: float, left_out: int, skipped: int
) -> None:
    """The rest is computed anew over the steps that are known; what the slot held before counts for nothing."""
    lm, heard = build(context=CONTEXT), speech(3, STEPS + 8)
    calls = Calls(Engine(lm, 2, ARGMAX))
    calls.receive(Open(A, ONE))
    calls.hear(A, heard[:STEPS])
    log = log_of(calls.said[A])
    message = Resume(A, ONE, log[34 * skipped :], 0, budget_s, skipped)
    calls.prompts.pace.took(128, 1e-3)
    calls.resume(message)
    calls.hear(A, heard[STEPS:])
    assert calls.answers == [Resumed(A, ONE, STEPS - left_out, left_out)]
    whole = parse_log(log_of(calls.said[A]))
    read = tokens_read(whole)[left_out:]
    if skipped:
        read = tokens_read(whole[left_out:])
    assert whole[STEPS:, :9].tolist() == recomputed(lm, read)[STEPS - left_out :].tolist()
    assert all(one.codes is not None for one in calls.said[A][STEPS:]), "frames are complete at once"


def test_random_numbers_and_the_text_that_is_penalized_are_those_after_all_steps() -> None:
    texts = np.array([3, 0, *range(10, 50), 3], np.int32)
    stepped, replayed = SamplerState(2, SAMPLED), SamplerState(2, SAMPLED)
    for state in (stepped, replayed):
        state.open(A, seed=9)
    for text in (8, 9, *texts):
        stepped.uniforms(1, [A])
        stepped.add_text(A, int(text))
    replayed.replay(A, texts[:5], skipped=2)
    replayed.replay(A, texts[5:])
    assert stepped.uniforms(1, [A]).tolist() == replayed.uniforms(1, [A]).tolist()
    for state in (stepped, replayed):
        state.add_text(A, 77)
    assert sorted(stepped.recent_text[A]) == sorted(replayed.recent_text[A])


def test_what_is_not_a_number_ends_one_call_only() -> None:
    lm, heard = build(), speech(0, 12)
    engine = Engine(lm, 2, ARGMAX, context=64)
    calls = Calls(engine)
    calls.receive(Open(A, ONE))
    calls.hear(A, heard[:6])
    engine._kv_cache.values[0][B, :, 60] = mx.nan
    calls.resume(resumed(log_of(calls.said[A]), B))
    assert calls.answers == [Failed(B, ONE, Stage.STEP, "the prefill computed NaN or infinity")]
    calls.hear(A, heard[6:])
    calls.resume(resumed(log_of(calls.said[A][:6]), B))
    calls.hear(B, heard[6:])
    assert frames(calls.said[B]) == frames(calls.said[A][6:]) == official(lm, speech(0, 13))[6:]


LOGS = {"half a step": b"\0" * 33, "a code": b"\xff\x7f" * 17, "negative": b"\xff\xff" * 17, "no step": b"\0" * 32}


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
def test_what_is_no_log_is_refused(log: bytes) -> None:
    calls = Calls(Engine(build(), 2, ARGMAX, context=64))
    calls.resume(resumed(log))
    (failed,) = calls.answers
    assert isinstance(failed, Failed)
    assert not failed.internal
    calls.receive(Open(A, ONE))
    calls.hear(A, speech(0, 3))
    assert len(calls.said[A]) == 3


def test_the_decoder_gets_the_frames_that_were_complete_and_no_log() -> None:
    calls = Calls(Engine(build(), 2, ARGMAX, context=64))
    calls.receive(Open(A, ONE))
    calls.hear(A, speech(0, 6))
    complete = [one.codes.tolist() for one in calls.said[A] if one.codes is not None]
    (passed,) = calls.stage.receive(resumed(log_of(calls.said[A])))
    assert isinstance(passed, Resume)
    assert passed.log == b""
    assert passed.own_codes is not None
    assert passed.own_codes.tolist() == complete


class Counting(Engine):
    """Counts the steps that it prefills."""

    prefilled = 0

    def prefill(self, slot: Slot, log: LogArray) -> bool:
        self.prefilled += len(log)
        return super().prefill(slot, log)


def lose_codec(calls: Calls, slot: Slot, steps: int) -> Resume:
    """Lose all but the first steps of a call's on the way to the app; return how that has it go on."""
    del calls.said[slot][steps:]
    calls.stage.receive(Relink())
    return replace(resumed(log_of(calls.said[slot]), slot, seed=5), seq=steps)


def hear_on(calls: Calls, heard: CodeArray, first: int) -> None:
    for seq in range(first, len(heard)):
        calls.receive(Codes(A, ONE, seq, heard[seq]))
        calls.work()


@pytest.mark.parametrize("lost", [0, 1, 5])
def test_a_call_goes_on_in_an_engine_that_outlives_the_codec_without_a_prefill(lost: int) -> None:
    """Past the context, with random numbers and the repetition penalty: as one that nothing has happened to."""
    lm, heard = build(context=CONTEXT), speech(3, STEPS)
    whole, calls = Calls(Engine(lm, 2, SAMPLED)), Calls(engine := Counting(lm, 2, SAMPLED))
    for one in (whole, calls):
        one.receive(Open(A, ONE, seed=5))
    hear_on(whole, heard, 0)
    hear_on(calls, heard[:25], 0)
    calls.receive(lose_codec(calls, A, 25 - lost))
    hear_on(calls, heard[:27], 25 - lost)
    assert len(calls.said[A]) == 25 - lost
    calls.receive(Resumed(A, ONE, 0, 0))
    assert [one.seq for one in calls.said[A]] == list(range(25)), "what was lost is sent again"
    hear_on(calls, heard, 27)
    assert [(one.seq, one.tokens) for one in calls.said[A]] == [(one.seq, one.tokens) for one in whole.said[A]]
    assert frames(calls.said[A]) == frames(whole.said[A])
    assert calls.answers == [Resumed(A, ONE, 25 - lost, 0)]
    assert engine.prefilled == 0


def test_after_a_second_loss_before_the_encoder_is_back_nothing_is_prefilled_either() -> None:
    calls = Calls(engine := Counting(build(), 2, ARGMAX, context=64))
    calls.receive(Open(A, ONE))
    hear_on(calls, speech(0, 8), 0)
    calls.receive(lose_codec(calls, A, 6))
    calls.resume(lose_codec(calls, A, 6))
    hear_on(calls, speech(0, 12), 8)
    assert frames(calls.said[A]) == official(build(), speech(0, 13))
    assert engine.prefilled == 0


@pytest.mark.parametrize("kind", ["another call", "other tokens", "more steps"])
def test_a_call_that_is_not_as_its_log_says_is_prefilled(kind: str) -> None:
    lm, heard = build(), speech(0, 12)
    calls, other = (Calls(Counting(lm, 2, ARGMAX, context=64)) for _ in range(2))
    for one in (calls, other):
        one.receive(Open(A, ONE))
    hear_on(calls, heard[:8], 0)
    hear_on(other, speech(1, 8) if kind == "other tokens" else heard[: 9 if kind == "more steps" else 8], 0)
    epoch = Epoch(2) if kind == "another call" else ONE
    log = log_of(other.said[A])
    lose_codec(calls, A, 0)
    calls.receive(replace(resumed(log), epoch=epoch))
    calls.receive(Resumed(A, epoch, 0, 0))
    calls.work()
    assert calls.answers == [Resumed(A, epoch, len(other.said[A]), 0)]
    assert calls.said[A] == []


def test_a_call_that_ends_while_its_codec_is_away_leaves_its_slot() -> None:
    calls = Calls(engine := Engine(build(), 2, ARGMAX, context=64))
    calls.receive(Open(A, ONE))
    calls.stage.receive(Relink())
    calls.receive(Close(A, ONE))
    with pytest.raises(KeyError):
        engine.close(A)
