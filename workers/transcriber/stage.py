"""The transcriber's stage: one step of the batch serves every call that has a frame waiting.

Nothing waits for it. A call that it is late with loses its oldest frames (`BACKLOG`), and so catches up; what is
missing is counted by the frames' numbers, wherever it was lost. After a call's last frame come as many of silence as
the text is behind, and a second more, so that the last words are not lost; whoever gets the slot next waits for that.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from workers.messages import (
    FRAME_S,
    CodeArray,
    Epoch,
    Heard,
    Slot,
    Speech,
    SpeechEnded,
    SpeechMessage,
    TranscriptEnd,
    TranscriptMessage,
    TurnOver,
)
from workers.scheduler import BatchScheduler
from workers.transcriber.transcriber import SpeechStep, Transcriber
from workers.transcriber.words import SpeechTiming, TimedWord, WordTimer

log = logging.getLogger(__name__)

BACKLOG = 64
"""Frames of a call that may wait, five seconds; older ones are dropped."""
PATIENCE_S = 0.04
TAIL_S = 1.0
"""Silence after the last frame, beside what the text is behind (moshi_mlx's `run_inference` feeds as much)."""
Frames = deque[tuple[int, CodeArray]]
"""Numbers and codes."""


@dataclass
class TranscribedCall:
    """One call; `next_seq` is the frame that comes next. `tail` is how much silence is left to feed once it `ended`."""

    epoch: Epoch
    words: WordTimer
    next_seq: int
    waiting: Frames = field(default_factory=lambda: deque(maxlen=BACKLOG))
    missed: int = 0
    ended: bool = False
    tail: int = 0
    words_in_turn: int = 0
    turn_over: bool = False


class TranscriberStage:
    """`decoder` returns what decodes the tokens of one call, `silence` are codes of it, (32,); see `FrameProcessor`."""

    def __init__(
        self,
        transcriber: Transcriber,
        decoder: Callable[[], Callable[[int], str]],
        timing: SpeechTiming,
        silence: CodeArray,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transcriber, self._decoder, self._timing = transcriber, decoder, timing
        self._silence, self._clock = silence, clock
        self._scheduler = BatchScheduler(PATIENCE_S, clock)
        self._calls: dict[Slot, TranscribedCall] = {}
        self.batch = 0
        """How many calls the last step served."""

    def due_s(self) -> float | None:
        if any(call.ended for call in self._calls.values()):
            return 0.0
        return self._scheduler.due_s([slot for slot, call in self._calls.items() if call.waiting])

    def receive(self, message: SpeechMessage) -> Sequence[TranscriptMessage]:
        call = self._calls.get(message.slot)
        match message:
            case Speech(slot, epoch, seq, codes):
                before = self._finish(slot) if call and call.epoch != epoch else []
                call = self._calls.get(slot) or self._begin(slot, epoch, seq)
                if not call.ended:
                    call.waiting.append((seq, codes))
                    self._scheduler.frame_arrived(slot)
                return before
            case SpeechEnded(slot, epoch):
                if call and call.epoch == epoch:
                    call.ended, call.tail = True, self._timing.delay_steps + round(TAIL_S / FRAME_S)
                    self._scheduler.call_ended(slot)
                return []

    def work(self) -> list[TranscriptMessage]:
        frames = {slot: frame for slot, call in self._calls.items() if (frame := self._next(call))}
        return self._step(frames)

    def _begin(self, slot: Slot, epoch: Epoch, seq: int) -> TranscribedCall:
        prefix = self._timing.prefix_steps
        self._transcriber.open(slot)
        call = self._calls[slot] = TranscribedCall(
            epoch, WordTimer(self._timing.delay_steps, seq, self._decoder()), seq - prefix
        )
        call.waiting.extend((call.next_seq + step, self._silence) for step in range(prefix))
        return call

    def _next(self, call: TranscribedCall) -> tuple[int, CodeArray] | None:
        """Return what a call's next step reads, None for nothing."""
        if call.waiting:
            return call.waiting.popleft()
        if not call.ended:
            return None
        call.tail -= 1
        return call.next_seq, self._silence

    def _finish(self, slot: Slot) -> list[TranscriptMessage]:
        """Step a call to its end at once: the slot is wanted."""
        messages: list[TranscriptMessage] = []
        messages += self.receive(SpeechEnded(slot, self._calls[slot].epoch)) if not self._calls[slot].ended else []
        while (call := self._calls.get(slot)) and (frame := self._next(call)):
            messages += self._step({slot: frame})
        return messages

    def _step(self, frames: dict[Slot, tuple[int, CodeArray]]) -> list[TranscriptMessage]:
        started_s, self.batch = self._clock(), len(frames)
        steps = self._transcriber.step({slot: codes for slot, (_, codes) in frames.items()})
        self._scheduler.step_took(self._clock() - started_s)
        return [message for slot, step in steps.items() for message in self._outcome(slot, frames[slot][0], step)]

    def _outcome(self, slot: Slot, seq: int, step: SpeechStep) -> list[TranscriptMessage]:
        call = self._calls[slot]
        call.missed += seq - call.next_seq
        call.next_seq = seq + 1
        messages: list[TranscriptMessage] = []
        if step.fault:
            log.error("slot %d: a frame cannot be transcribed (%s), its words begin anew", slot, step.fault)
            self._transcriber.open(slot)
        else:
            messages += self._words(slot, call, seq, step)
        if call.ended and not call.waiting and call.tail <= 0:
            messages += self._heard(slot, call, call.words.finish())
            del self._calls[slot]
            messages.append(TranscriptEnd(slot, call.epoch, call.missed))
        return messages

    def _words(self, slot: Slot, call: TranscribedCall, seq: int, step: SpeechStep) -> list[TranscriptMessage]:
        messages: list[TranscriptMessage] = [*self._heard(slot, call, call.words.step(step.text_token, seq))]
        call.turn_over |= step.turn_over
        if call.turn_over and not call.words.in_word:
            if call.words_in_turn:
                messages.append(TurnOver(slot, call.epoch, (seq + 1) * FRAME_S))
            call.turn_over, call.words_in_turn = False, 0
        return messages

    def _heard(self, slot: Slot, call: TranscribedCall, word: TimedWord | None) -> list[Heard]:
        if not word:
            return []
        call.words_in_turn += 1
        return [Heard(slot, call.epoch, word.text, word.start_s, word.stop_s)]
