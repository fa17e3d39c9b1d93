"""The engine's stage: one step of the batch serves every call that has a frame waiting.

A step runs as soon as every live call has a frame waiting, or when the oldest frame has waited long enough
(`BatchScheduler`). A call without a frame is left out. The silence of a greeting never delays other calls: it is
stepped along with their frames, and between them where a step fits in. So are prompts, chunk by chunk. Between steps
the engine is kept awake.

What Moshi is to say word for word, a greeting or a `Say`, waits in its row and is forced step by step (`steering.py`).
While it speaks a greeting it hears silence in place of the caller, unless its persona listens.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from workers.engine.delay_pattern import TEXT_PADDING, StepResult
from workers.engine.prompt_queue import PromptQueue
from workers.engine.steering import Force, Steering, Word
from workers.messages import (
    FRAME_S,
    GREETING,
    Close,
    CodeArray,
    Codes,
    DropPrompt,
    Epoch,
    Failed,
    Frame,
    Message,
    Open,
    Payload,
    PipelineMessage,
    PreparePrompt,
    PromptReady,
    PromptRefused,
    Resume,
    Resumed,
    Said,
    Say,
    Slot,
    Span,
    Stage,
)
from workers.scheduler import BatchScheduler

if TYPE_CHECKING:
    from workers.engine.engine import Engine

log = logging.getLogger(__name__)

PATIENCE_S = 0.025
"""A packet, by which the frames of calls in phase may differ, and a little."""


class Vocabulary(Protocol):
    """Text to tokens and back."""

    def decoder(self) -> Callable[[int], str]:
        """Return what returns the text that a token adds to one call's transcript."""

    def words(self, text: str) -> Sequence[Word]:
        """Return the tokens of each word."""


class LoopbackEngine:
    """The line test's engine: the caller's frame comes back in its own step, which takes `step_s`, without text."""

    keep_alive_s: float | None = None

    def __init__(self, step_s: float = 0.0) -> None:
        self._step_s = step_s

    def keep_alive(self) -> None: ...

    def open(
        self, slot: Slot, seed: int | None = None, sampling: tuple[tuple[str, float], ...] = (), prompt: str = ""
    ) -> None: ...

    def close(self, slot: Slot) -> None: ...

    def step(self, codes: Mapping[Slot, CodeArray], forced: Mapping[Slot, Force]) -> dict[Slot, StepResult]:
        if self._step_s:
            time.sleep(self._step_s)
        return {slot: StepResult(TEXT_PADDING, frame) for slot, frame in codes.items()}


@dataclass
class _Row:
    """One live call: what waits for its next step. The silence of its greeting goes before the caller's frames.

    More `silence` takes the place of the caller's frames until the words of the greeting have been said; the last frame
    of it repeats.
    """

    epoch: Epoch
    decode_text: Callable[[int], str]
    greeting: deque[Codes]
    silence: deque[Payload]
    steering: Steering
    frame: Codes | None = None

    def pop(self) -> Codes | None:
        if self.greeting:
            return self.greeting.popleft()
        frame, self.frame = self.frame, None
        return replace(frame, codes=self._next_silence()) if frame and self._hears_silence() else frame

    def _hears_silence(self) -> bool:
        return bool(self.silence) and self.steering.sentence == GREETING

    def _next_silence(self) -> Payload:
        return self.silence.popleft() if len(self.silence) > 1 else self.silence[0]


class EngineStage:
    """Of each call at most one frame waits for the step; an older one is dropped and counted.

    Without a `vocabulary` there is no text, and what is to be said is answered with `Said` at once.
    """

    def __init__(
        self,
        engine: "Engine | LoopbackEngine",
        vocabulary: Vocabulary | None,
        clock: Callable[[], float] = time.monotonic,
        prompts: PromptQueue | None = None,
    ) -> None:
        self._engine, self._vocabulary, self._clock = engine, vocabulary, clock
        self._prompts = PromptQueue() if prompts is None else prompts
        self._scheduler = BatchScheduler(PATIENCE_S, clock)
        self._rows: dict[Slot, _Row] = {}
        self._worked_s = clock()

    def due_s(self) -> float | None:
        if waiting := [slot for slot, row in self._rows.items() if row.frame]:
            return self._scheduler.due_s(waiting)
        if any(row.greeting for row in self._rows.values()):
            return self._scheduler.gap_s()
        if self._prompts:
            return 0.0 if self._prompt_chunk() else self._clock() + FRAME_S
        return None if self._engine.keep_alive_s is None else self._worked_s + self._engine.keep_alive_s

    def receive(self, message: Message) -> list[Message]:
        match message:
            case Codes(slot, epoch):
                row = self._rows.get(slot)
                if row and row.epoch == epoch:
                    self._wait(row, message)
                return []
            case Open(slot, epoch):
                answers = self._open(message)
                greeting = Say(slot, epoch, GREETING, message.persona.greeting)
                said = self._say(greeting) if greeting.text else []
                return [*answers, replace(message, silence=None), *said]
            case Resume(slot, epoch):
                return [Failed(slot, epoch, Stage.STEP, "not built yet")]
            case Resumed():
                raise TypeError("the engine itself says what has been resumed")
            case Close(slot, epoch) | Failed(slot, epoch):
                self._close(slot, epoch)
                return [message]
            case PreparePrompt():
                return [*self._prompts.add(message)]
            case DropPrompt(key):
                self._prompts.drop(key)
                return []
            case PromptReady() | PromptRefused():
                return [message]
            case Say():
                return [*self._say(message)]
            case Said():
                raise TypeError("the engine itself says what has been said")
            case Frame():
                raise TypeError("frames of PCM are not for the engine")

    def work(self) -> list[Message]:
        started_s = self._worked_s = self._clock()
        frames = {slot: frame for slot, row in self._rows.items() if (frame := row.pop())}
        if not frames and self._prompts:
            return [*self._prompts.work(self._prompt_chunk())]
        if not frames:
            self._engine.keep_alive()
            return []
        codes: dict[Slot, CodeArray] = {slot: frame.codes for slot, frame in frames.items()}  # type: ignore[misc]
        forced = {slot: force for slot in frames if (force := self._rows[slot].steering.next()).mode}
        results = self._engine.step(codes, forced)
        span = Span(Stage.STEP, started_s, self._clock())
        self._scheduler.step_took(span.ended_s - span.started_s)
        return [message for slot, result in results.items() for message in self._outcome(frames[slot], result, span)]

    def _open(self, message: Open) -> list[Message]:
        slot, epoch = message.slot, message.epoch
        if row := self._rows.get(slot):
            self._close(slot, row.epoch)
        prompt, answers = self._prompts.require(message.persona.prompt, idle=not self._rows)
        if message.persona.prompt and not prompt:
            log.warning("slot %d: the call begins without its prompt, which is not computed", slot)
        self._engine.open(slot, message.seed, message.persona.sampling, prompt)
        silence = [] if message.silence is None else [*message.silence]
        ahead = silence[: message.greeting_frames]
        greeting = deque(Codes(slot, epoch, seq, codes) for seq, codes in enumerate(ahead))
        more = [] if message.persona.listens else silence[len(ahead) :] or silence[-1:]
        decode_text = self._vocabulary.decoder() if self._vocabulary else lambda token: ""
        self._rows[slot] = _Row(epoch, decode_text, greeting, deque(more), Steering())
        return [*answers]

    def _prompt_chunk(self) -> int:
        """Return how many positions of a prompt fit in before the next frame of a call."""
        return self._prompts.chunk(self._scheduler.free_s() if self._rows else None)

    def _say(self, message: Say) -> list[PipelineMessage]:
        row = self._rows.get(message.slot)
        if not row or row.epoch != message.epoch:
            return []
        if not self._vocabulary:
            return [Said(message.slot, message.epoch, message.sentence, whole=False)]
        row.steering.add(message.sentence, self._vocabulary.words(message.text))
        return []

    def _close(self, slot: Slot, epoch: Epoch) -> None:
        row = self._rows.get(slot)
        if row and row.epoch == epoch:
            del self._rows[slot]
            self._scheduler.call_ended(slot)
            self._engine.close(slot)

    def _wait(self, row: _Row, frame: Codes) -> None:
        if row.frame:
            frame = replace(frame, dropped=frame.dropped + row.frame.dropped + 1)
        row.frame = frame
        self._scheduler.frame_arrived(frame.slot, frame.spans[-1].ended_s if frame.spans else None)

    def _outcome(self, frame: Codes, result: StepResult, span: Span) -> list[PipelineMessage]:
        slot, row = frame.slot, self._rows[frame.slot]
        if result.fault:
            self._close(slot, row.epoch)
            return [Failed(slot, row.epoch, Stage.STEP, result.fault)]
        text, tokens = row.decode_text(result.text_token), result.log.astype("<i2").tobytes()
        codes = Codes(slot, row.epoch, frame.seq, result.codes, text, frame.dropped, (*frame.spans, span), tokens)
        over = row.steering.advance(result.text_token)
        return [codes, *(Said(slot, row.epoch, end.sentence, end.whole) for end in over)]
