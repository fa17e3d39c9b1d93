"""What the transcriber does with the frames of all calls: batches, gaps, ends, turns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from tests.workers.transcriber.small import near
from workers.messages import (
    CodeArray,
    Epoch,
    Heard,
    Slot,
    Speech,
    SpeechEnded,
    TranscriptEnd,
    TranscriptMessage,
    TurnOver,
)
from workers.transcriber.stage import BACKLOG, PATIENCE_S, TranscriberStage
from workers.transcriber.transcriber import SpeechStep, Transcriber
from workers.transcriber.words import SpeechTiming

A, B = map(Slot, range(2))
SILENCE = np.full(32, 9, np.int32)
DELAY, TAIL = 6, 6 + 12
FAULTY, TURN = 99, 98


@dataclass
class FakeTranscriber:
    """Writes as text token what the first code says, TURN ends a turn; a step takes 10 ms on its own clock."""

    now: float = 50.0
    opened: list[Slot] = field(default_factory=list)
    batches: list[dict[Slot, int]] = field(default_factory=list)

    def open(self, slot: Slot) -> None:
        self.opened.append(slot)

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, SpeechStep]:
        tokens = {slot: int(frame[0]) for slot, frame in codes.items()}
        self.batches.append(tokens)
        self.now += 0.01
        return {slot: self._outcome(token) for slot, token in tokens.items()}

    def _outcome(self, token: int) -> SpeechStep:
        silent = token in (9, TURN)
        return SpeechStep(3 if silent else token, token == TURN, "NaN" if token == FAULTY else "")


class Calls:
    def __init__(self, prefix: int = 0) -> None:
        self.fake = FakeTranscriber()
        decode = lambda: lambda token: f" w{token}"  # noqa: E731
        timing, transcriber = SpeechTiming(DELAY, prefix), cast("Transcriber", self.fake)
        self.stage = TranscriberStage(transcriber, decode, timing, SILENCE, lambda: self.fake.now)

    def say(self, slot: Slot, seq: int, token: int = 3, epoch: int = 1) -> list[TranscriptMessage]:
        return [*self.stage.receive(Speech(slot, Epoch(epoch), seq, np.full(32, token, np.int32)))]

    def end(self, slot: Slot, epoch: int = 1) -> list[TranscriptMessage]:
        return [*self.stage.receive(SpeechEnded(slot, Epoch(epoch)))]

    def work(self) -> list[TranscriptMessage]:
        """Work until nothing is due, however long it waits for others."""
        done: list[TranscriptMessage] = []
        while self.stage.due_s() is not None:
            done += self.stage.work()
        return done

    def speak(self, slot: Slot, tokens: list[int], first: int = 0, epoch: int = 1) -> list[TranscriptMessage]:
        done: list[TranscriptMessage] = []
        for seq, token in enumerate(tokens, first):
            done += self.say(slot, seq, token, epoch)
            done += self.work()
        return done


SPOKEN = [3] * 10 + [0, 40, 3]
"""A word that begins at frame 6: the text is four frames behind."""


def heard(slot: Slot, first: int = 0, epoch: int = 1) -> Heard:
    start_s = near((first + 6) * 0.08)
    return Heard(slot, Epoch(epoch), "w40", start_s, near((first + 8) * 0.08))


def test_calls_in_phase_share_a_step_and_one_alone_is_not_waited_for_for_ever() -> None:
    calls = Calls()
    calls.say(A, 0)
    assert calls.stage.due_s() == 0.0, "no other call is live"
    calls.work()
    calls.say(B, 0)
    calls.work()
    calls.fake.now += 0.07
    calls.say(A, 1)
    due_s = calls.stage.due_s()
    assert due_s is not None
    assert calls.fake.now < due_s <= calls.fake.now + PATIENCE_S
    calls.say(B, 1)
    assert calls.stage.due_s() == 0.0
    calls.work()
    assert calls.fake.batches[-1] == {A: 3, B: 3}


def test_a_word_has_the_times_of_the_calls_frames() -> None:
    calls = Calls()
    assert calls.speak(A, SPOKEN) == [heard(A)]
    assert calls.speak(B, SPOKEN, first=25) == [heard(B, 25)], "after a greeting of 25 frames"
    assert calls.fake.opened == [A, B]


def test_the_last_word_comes_after_the_hang_up_with_as_much_silence_as_it_takes_then_the_end() -> None:
    calls = Calls()
    assert calls.speak(A, SPOKEN[:-1]) == []
    calls.end(A)
    assert calls.work() == [heard(A), TranscriptEnd(A, Epoch(1), 0)]
    assert calls.fake.batches[len(SPOKEN) - 1 :] == [{A: 9}] * TAIL
    assert calls.stage.due_s() is None
    assert calls.end(A) == []
    assert calls.stage.due_s() is None, "it has ended already"


def test_the_next_call_in_a_slot_waits_for_the_last_words_of_the_one_before() -> None:
    calls = Calls()
    calls.speak(A, SPOKEN[:-1])
    assert calls.say(A, 0, epoch=2) == [heard(A), TranscriptEnd(A, Epoch(1), 0)], "whether or not it was ended"
    assert calls.fake.opened == [A, A]
    assert calls.speak(A, SPOKEN[1:], first=1, epoch=2) == [heard(A, epoch=2)]
    calls.end(A, epoch=1)
    assert calls.stage.due_s() is None, "that call is over"


def test_frames_that_are_missing_or_came_too_late_are_counted() -> None:
    calls = Calls()
    calls.say(A, 0)
    calls.work()
    calls.say(A, 4)
    calls.work()
    for seq in range(5, 5 + BACKLOG + 7):
        calls.say(A, seq)
    calls.work()
    assert len(calls.fake.batches) == 2 + BACKLOG, "the oldest were dropped"
    calls.end(A)
    assert calls.work() == [TranscriptEnd(A, Epoch(1), 3 + 7)]


def test_a_turn_is_over_once_after_words_and_not_within_one() -> None:
    calls = Calls()
    assert calls.speak(A, [3] * 10 + [TURN]) == [], "nothing was said"
    assert calls.speak(A, [0, 40, TURN, TURN, 9], first=11) == [
        Heard(A, Epoch(1), "w40", near(7 * 0.08), near(9 * 0.08)),
        TurnOver(A, Epoch(1), near(14 * 0.08)),
    ]


def test_what_was_not_finite_begins_anew() -> None:
    calls = Calls()
    assert calls.speak(A, [*SPOKEN, FAULTY, *SPOKEN]) == [heard(A), heard(A, len(SPOKEN) + 1)]
    assert calls.fake.opened == [A, A]


def test_a_model_that_wants_silence_first_gets_it() -> None:
    calls = Calls(prefix=3)
    assert calls.speak(A, SPOKEN) == [heard(A)]
    assert calls.fake.batches[:4] == [{A: 9}] * 3 + [{A: 3}]
    calls.end(A)
    assert calls.work() == [TranscriptEnd(A, Epoch(1), 0)]
