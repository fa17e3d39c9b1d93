"""What Moshi is to say word for word, through the engine's stage; silence is the code 9, the caller speaks from 100."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.engine.speaker import Letters, SpeechBackend, own, stage_of
from workers.engine.stage import EngineStage
from workers.messages import (
    CallPersona,
    Close,
    Codes,
    Epoch,
    Failed,
    Message,
    Open,
    PipelineMessage,
    Said,
    Say,
    Slot,
    Stage,
)

A, B = Slot(0), Slot(1)
SILENCE = np.arange(1, 6, dtype=np.int32).repeat(8).reshape(5, 8)
"""The n-th frame of silence is the code n; the last one repeats."""


def opened(greeting: str = "", slot: Slot = A, epoch: int = 1, ahead: int = 0, listens: bool = False) -> Open:
    silence = SILENCE if greeting else SILENCE[:ahead]
    return Open(slot, Epoch(epoch), ahead, silence, persona=CallPersona(greeting, listens))


def say(text: str, sentence: int = 1, slot: Slot = A, epoch: int = 1) -> Say:
    return Say(slot, Epoch(epoch), sentence, text)


def said(sentence: int, whole: bool = True, slot: Slot = A, epoch: int = 1) -> Said:
    return Said(slot, Epoch(epoch), sentence, whole)


class Call:
    """The stage with calls whose frames come one after the other: 100, 101, …"""

    def __init__(self, *samples: str, vocabulary: bool = True) -> None:
        self.engine = SpeechBackend([own(sample) for sample in samples or ("", " x")])
        self.stage: EngineStage = stage_of(self.engine, Letters() if vocabulary else None)
        self.out: list[Message] = []
        self.frame = 100

    def receive(self, *messages: PipelineMessage) -> None:
        for message in messages:
            self.out += self.stage.receive(message)

    def step(self, times: int = 1, slots: Sequence[Slot] = (A,), epoch: int = 1) -> None:
        for _ in range(times):
            frame = np.full(8, self.frame, np.int32)
            self.receive(*(Codes(slot, Epoch(epoch), self.frame, frame) for slot in slots))
            self.frame += 1
            while self.stage.due_s() is not None:
                self.out += self.stage.work()

    def text(self, slot: Slot = A) -> str:
        return "".join(message.text for message in self.out if isinstance(message, Codes) and message.slot == slot)

    def ends(self) -> list[Said]:
        return [message for message in self.out if isinstance(message, Said)]


def test_a_greeting_is_said_in_silence_until_its_last_word_and_then_the_caller_is_heard() -> None:
    call = Call()
    call.receive(opened("hi ada"))
    call.step(9)
    assert call.text() == " hi ada x"
    assert call.engine.heard[A] == [1, 2, 3, 4, 5, 5, 106, 107, 108], "the last piece is that of the sixth step"
    assert [getattr(message, "seq", None) for message in call.out[1:7]] == [100, 101, 102, 103, 104, 105]
    assert call.out[7] == said(0), "behind the frame in which it ends"


def test_frames_stepped_ahead_are_silence_too_and_the_callers_frames_drive_the_rest() -> None:
    call = Call()
    call.receive(opened("hi ada", ahead=2))
    call.step(6)
    assert call.engine.heard[A] == [1, 2, 3, 4, 5, 5, 104, 105]
    assert [message.seq for message in call.out if isinstance(message, Codes)] == [0, 1, *range(100, 106)]


def test_a_persona_that_listens_hears_the_caller_all_the_time() -> None:
    call = Call()
    call.receive(opened("hi ada", ahead=2, listens=True))
    call.step(4)
    assert call.engine.heard[A] == [1, 2, 100, 101, 102, 103]
    assert call.text() == " hi ada"


def test_a_greeting_without_words_is_over_with_the_first_step() -> None:
    call = Call()
    call.receive(opened("  "))
    call.step(2)
    assert call.engine.heard[A] == [1, 101]
    assert call.ends() == [said(0)]


def test_what_is_to_be_said_waits_for_the_greeting_and_is_said_while_the_caller_is_heard() -> None:
    call = Call()
    call.receive(opened("hi"), say("yes no", 1), say("ok", 2))
    call.step(11)
    assert call.text() == " hi yes no ok"
    assert call.ends() == [said(0), said(1), said(2)]
    assert call.engine.heard[A][:4] == [1, 2, 3, 103]


def test_a_greeting_that_was_said_is_not_waited_for_again() -> None:
    call = Call()
    call.receive(opened("hi"))
    call.step(3)
    call.receive(say("yes"))
    call.step(4)
    assert call.engine.heard[A] == [1, 2, 3, 103, 104, 105, 106]


def test_say_in_mid_word_lets_the_model_finish_its_own_word() -> None:
    call = Call(" x", "y", "z", "")
    call.receive(opened())
    call.step(2)
    call.receive(say("ok"))
    call.step(4)
    assert call.text() == " xyz ok"


def test_the_model_adds_nothing_to_the_last_word() -> None:
    call = Call(" x", "y", "z", "")
    call.receive(opened(), say("o"))
    call.step(5)
    assert call.text() == " o x"


def test_say_in_mid_sentence_waits_for_its_turn() -> None:
    call = Call()
    call.receive(opened(), say("one two", 1))
    call.step(3)
    call.receive(say("six", 2))
    call.step(10)
    assert call.text() == " one two six"


def test_a_call_that_ends_in_mid_sentence_leaves_nothing_to_the_next_one() -> None:
    call = Call()
    call.receive(opened("hello there"), say("more"))
    call.step(4)
    call.receive(Close(A, Epoch(1)), opened(epoch=2), say("late"))
    call.step(4, epoch=2)
    call.receive(opened(epoch=3))
    call.step(2, epoch=3)
    assert call.text() == " hel x x x"
    assert call.ends() == []
    assert call.engine.heard[A] == [108, 109]


def test_a_call_that_fails_in_mid_sentence_says_no_more() -> None:
    call = Call()
    call.receive(opened("hello"))
    call.engine.faults.extend(["", "", "NaN"])
    call.step(5)
    assert call.out[-1] == Failed(A, Epoch(1), Stage.STEP, "NaN")
    call.receive(say("more"))
    call.step(2)
    assert call.ends() == []


def test_each_row_says_its_own() -> None:
    call = Call()
    call.receive(opened("hi", A), opened("", B), say("no", 1, B))
    call.step(2, [B, A])
    call.step(3, [A])
    call.step(3, [B])
    assert (call.text(A), call.text(B)) == (" hi x", " no x")
    assert sorted(call.ends(), key=lambda end: end.slot) == [said(0), said(1, slot=B)]
    assert call.engine.heard[B] == [100, 101, 105, 106, 107], "the caller of a call without a greeting is heard"


def test_an_engine_without_text_answers_at_once_that_words_were_left_out() -> None:
    call = Call(vocabulary=False)
    call.receive(opened("hello"), say("more", 1), say("stale", 2, epoch=9))
    assert call.ends() == [said(0, whole=False), said(1, whole=False)]
    call.step(2)
    assert call.engine.heard[A] == [100, 101]


def test_the_engine_gets_the_sampling_of_the_persona() -> None:
    call = Call()
    sampling = (("text_temperature", 0.3),)
    call.receive(Open(A, Epoch(1), persona=CallPersona(sampling=sampling)))
    assert call.engine.sampling == {A: sampling}


TEXTS = st.text("ab ", max_size=12)
STORIES = st.lists(
    st.one_of(
        st.builds(opened, TEXTS, st.sampled_from([A, B]), st.integers(1, 3), st.integers(0, 2), st.booleans()),
        st.builds(say, TEXTS, st.integers(1, 3), st.sampled_from([A, B]), st.integers(1, 3)),
        st.builds(Close, st.sampled_from([A, B]), st.integers(1, 3).map(Epoch)),
        st.lists(st.sampled_from([A, B]), min_size=1, max_size=2, unique=True),
    ),
    max_size=40,
)


@given(STORIES, st.lists(st.sampled_from(["", "", " x", "y"]), min_size=1, max_size=5))
def test_whatever_happens_each_sentence_of_a_call_that_goes_on_is_over_once_and_in_order(
    story: list[PipelineMessage | list[Slot]], samples: list[str]
) -> None:
    call = Call(*samples)
    epochs: dict[Slot, int] = {}
    pending: dict[Slot, deque[Said]] = {A: deque(), B: deque()}

    def happens(event: PipelineMessage | list[Slot]) -> None:
        call.out.clear()
        if isinstance(event, list):
            for slot in event:
                call.step(1, [slot], epochs.get(slot, 0))
        else:
            call.receive(event)
        for end in call.ends():
            assert pending[end.slot].popleft() == end

    for event in story:
        match event:
            case Open(slot, epoch):
                epochs[slot] = epoch
                greeting = [said(0, True, slot, epoch)] if event.persona.greeting else []
                pending[slot] = deque(greeting)
            case Say(slot, epoch, sentence) if epochs.get(slot) == epoch:
                pending[slot].append(said(sentence, True, slot, epoch))
            case Close(slot, epoch) if epochs.get(slot) == epoch:
                del epochs[slot]
                pending[slot].clear()
        happens(event)
    for _ in range(5_000):
        if not any(pending.values()):
            break
        happens([*epochs])
    assert not any(pending.values())
