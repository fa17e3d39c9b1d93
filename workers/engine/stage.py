"""The engine's stage: one step of the batch serves every call that has a frame waiting.

A step runs as soon as every live call has a frame waiting, or when the oldest frame has waited long enough
(`BatchScheduler`). A call without a frame is left out. The silence of a greeting never delays other calls: it is
stepped along with their frames, and between them where a step fits in. So are prompts, chunk by chunk, and the logs
of calls that come back (`ResumeQueue`). Between steps the engine is kept awake.

What Moshi is to say word for word, a greeting or a `Say`, waits in its row and is forced step by step (`steering.py`).
While it speaks a greeting it hears silence in place of the caller, unless its persona listens.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workers.checkpoints.files import ReportProgress, report_nothing
from workers.control_messages import Relink
from workers.engine.delay_pattern import StepResult, serialize_log
from workers.engine.loopback import LoopbackEngine
from workers.engine.prompt_queue import PromptQueue
from workers.engine.resume_queue import ResumeQueue
from workers.engine.row import Row, SentSteps, Vocabulary, decoder
from workers.messages import (
    FRAME_S,
    GAP_FRAMES,
    GREETING,
    STEP_TOKENS,
    Close,
    CodeArray,
    Codes,
    DropPrompt,
    Epoch,
    Failed,
    Frame,
    Message,
    Open,
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
REPLAYED_FRAMES = 1_000
"""Of Moshi's voice: 80 s, how far the decoder looks back."""
STEP_BYTES = 2 * STEP_TOKENS
REPLAYED_TEXT = 64
"""Tokens that the text decoder reads again: a character may have been begun."""


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
        checkpoint: str = "",
        progress: ReportProgress = report_nothing,
    ) -> None:
        """Make the stage of an engine; `checkpoint` is its digest, "" for an engine without."""
        self._engine, self._vocabulary, self._clock, self._checkpoint = engine, vocabulary, clock, checkpoint
        self._prompts = PromptQueue() if prompts is None else prompts
        self._resumes = ResumeQueue(engine, self._prompts, progress, clock)
        self._scheduler = BatchScheduler(PATIENCE_S, clock)
        self._rows: dict[Slot, Row] = {}
        self._returning: dict[Slot, Row] = {}
        """The calls of which the log is being prefilled."""
        self._kept: dict[Slot, Row] = {}
        """The calls that wait for another encoder and decoder; the engine has all of them."""
        self._worked_s = clock()

    def due_s(self) -> float | None:
        if waiting := [slot for slot, row in self._rows.items() if row.frame]:
            return self._scheduler.due_s(waiting)
        if any(row.greeting for row in self._rows.values()):
            return self._scheduler.gap_s()
        returns_s = self._resumes.due_s()
        if returns_s == 0.0 or self._prompts:
            return 0.0 if self._chunk() else self._clock() + FRAME_S
        if self._engine.cold and returns_s is None:
            return self._scheduler.gap_s()
        wakes_s = None if self._engine.keep_alive_s is None else self._worked_s + self._engine.keep_alive_s
        return min((due_s for due_s in (returns_s, wakes_s) if due_s is not None), default=None)

    def receive(self, message: Message | Relink) -> Sequence[Message]:
        match message:
            case Codes(slot, epoch):
                if row := self._row(slot, epoch):
                    self._wait(row, message)
                return []
            case Open(slot, epoch):
                answers = self._open(message)
                greeting = Say(slot, epoch, GREETING, message.persona.greeting)
                said = self._say(greeting) if greeting.text else []
                return [*answers, replace(message, silence=None), *said]
            case Resume():
                return self._resume(message)
            case Resumed(slot, epoch):
                return self._caller_is_heard(slot, epoch)
            case Close(slot, epoch) | Failed(slot, epoch):
                self._close(slot, epoch)
                return [message]
            case PreparePrompt():
                return self._prompts.add(message)
            case DropPrompt(key):
                self._prompts.drop(key)
                return []
            case PromptReady() | PromptRefused():
                return [message]
            case Relink():
                self._suspend_calls()
                return []
            case Say():
                return self._say(message)
            case Said():
                raise TypeError("the engine itself says what has been said")
            case Frame():
                raise TypeError("frames of PCM are not for the engine")

    def work(self) -> Sequence[Message]:
        started_s = self._worked_s = self._clock()
        frames = {slot: frame for slot, row in self._rows.items() if (frame := row.pop())}
        if not frames:
            return self._work_between_steps()
        codes: dict[Slot, CodeArray] = {slot: frame.codes for slot, frame in frames.items()}  # type: ignore[misc]
        forced = {slot: force for slot in frames if (force := self._rows[slot].steering.next()).mode}
        results = self._engine.step(codes, forced)
        span = Span(Stage.STEP, started_s, self._clock())
        self._scheduler.step_took(span.ended_s - span.started_s)
        said = [message for slot, result in results.items() for message in self._outcome(frames[slot], result, span)]
        return [*said, *(self._work_between_steps() if self._resumes.is_starved else [])]

    def _work_between_steps(self) -> Sequence[Message]:
        if (returns_s := self._resumes.due_s()) is not None and returns_s <= self._clock():
            return [message for answer in self._resumes.work(self._chunk()) for message in self._end_wait(answer)]
        if self._prompts:
            return self._prompts.work(self._chunk())
        if self._engine.cold:
            self._engine.warm_next()
        else:
            self._engine.keep_alive()
        return []

    def _end_wait(self, answer: Resumed | Failed) -> list[PipelineMessage]:
        if isinstance(answer, Failed):
            self._close(answer.slot, answer.epoch)
            return [answer]
        row = self._returning[answer.slot]
        row.resumed, row.sent = answer, SentSteps(answer.left_out + answer.steps, answer.left_out)
        return self._go_live(answer.slot)

    def _caller_is_heard(self, slot: Slot, epoch: Epoch) -> list[PipelineMessage]:
        """Handle that the encoder is back: all frames of the gap have come."""
        row = self._returning.get(slot)
        if not row or row.epoch != epoch:
            return []
        row.caller_is_heard, row.catches_up = True, GAP_FRAMES
        return self._go_live(slot)

    def _go_live(self, slot: Slot) -> list[PipelineMessage]:
        """Step a call from now on, if both the engine and the encoder are back."""
        row = self._returning[slot]
        if not row.resumed or not row.caller_is_heard:
            return []
        row.greeting = deque(row.greeting)  # without its limit: `catches_up` frames more may queue
        self._rows[slot] = self._returning.pop(slot)
        return [row.resumed, *row.unanswered]

    def _resume(self, message: Resume) -> list[PipelineMessage]:
        """Let a call wait for its prefill, unless it was kept; the decoder gets back to where it was meanwhile."""
        slot, epoch = message.slot, message.epoch
        try:
            if message.checkpoint and message.checkpoint != self._checkpoint:
                raise ValueError("the call began on another checkpoint")
            steps = self._engine.read_log(message.log)
        except ValueError as error:
            self._close(slot)
            return [Failed(slot, epoch, Stage.STEP, str(error))]
        row = self._go_on(message, len(steps))
        if not row:
            self._close(slot)
            self._resumes.add(message, steps)
            row = Row(epoch, decoder(self._vocabulary, steps[-REPLAYED_TEXT:]), deque(maxlen=GAP_FRAMES))
        self._returning[slot] = row
        frames = self._engine.own_frames(steps)
        return [replace(message, log=b"", own_codes=None if frames is None else frames[-REPLAYED_FRAMES:])]

    def _go_on(self, message: Resume, steps: int) -> Row | None:
        """Return the row of a call that was kept, if it is as its log of so many steps says, or ahead of that."""
        slot, epoch, known = message.slot, message.epoch, message.skipped + steps
        row = self._kept.get(slot)
        if not row or row.epoch != epoch or (unanswered := row.sent.after(known, message.log[-STEP_BYTES:])) is None:
            return None
        del self._kept[slot]
        resumed = Resumed(slot, epoch, known - row.sent.left_out, row.sent.left_out)
        gap = deque[Codes](maxlen=GAP_FRAMES)
        return Row(epoch, row.decode_text, gap, resumed=resumed, sent=row.sent, unanswered=unanswered)

    def _row(self, slot: Slot, epoch: Epoch) -> Row | None:
        row = self._rows.get(slot) or self._returning.get(slot)
        return row if row and row.epoch == epoch else None

    def _open(self, message: Open) -> Sequence[Message]:
        slot, epoch = message.slot, message.epoch
        self._close(slot)
        idle = not self._rows and not self._returning
        prompt, answers = self._prompts.require(message.persona.prompt, idle)
        if message.persona.prompt and not prompt:
            log.warning("slot %d: the call begins without its prompt, which is not computed", slot)
        self._engine.open(slot, message.seed, message.persona.sampling, prompt)
        silence = [] if message.silence is None else [*message.silence]
        ahead = silence[: message.greeting_frames]
        greeting = deque(Codes(slot, epoch, seq, codes) for seq, codes in enumerate(ahead))
        more = [] if message.persona.listens else silence[len(ahead) :] or silence[-1:]
        self._rows[slot] = Row(epoch, decoder(self._vocabulary), greeting, deque(more))
        return answers

    def _chunk(self) -> int:
        """Return how many positions of a log or a prompt to compute now, before the next frame of a call."""
        free_s = self._scheduler.free_s() if self._rows else None
        return self._resumes.chunk(free_s) if self._resumes else self._prompts.chunk(free_s)

    def _say(self, message: Say) -> list[PipelineMessage]:
        if not (row := self._row(message.slot, message.epoch)):
            return []
        if not self._vocabulary:
            return [Said(message.slot, message.epoch, message.sentence, whole=False)]
        row.steering.add(message.sentence, self._vocabulary.words(message.text))
        return []

    def _close(self, slot: Slot, epoch: Epoch | None = None) -> None:
        """End the call of this epoch in a slot, None for whichever, if there is one."""
        row = self._rows.get(slot) or self._returning.get(slot) or self._kept.get(slot)
        if not row or epoch not in (None, row.epoch):
            return
        for rows in (self._rows, self._returning, self._kept):
            rows.pop(slot, None)
        self._scheduler.call_ended(slot)
        if not self._resumes.remove(slot):
            self._engine.close(slot)

    def _suspend_calls(self) -> None:
        """Keep the calls as they are until the app resumes, opens anew or closes them: encoder and decoder are new."""
        for slot in [slot for slot, row in self._returning.items() if not row.resumed]:
            self._close(slot)
        self._kept |= self._rows | self._returning
        self._rows.clear()
        self._returning.clear()
        for slot in self._kept:
            self._scheduler.call_ended(slot)
        self._prompts.forget()

    def _wait(self, row: Row, frame: Codes) -> None:
        if frame.slot in self._returning:
            if frame.seq > row.sent.last_seq:
                row.greeting.append(frame)
            return
        row.wait(frame)
        self._scheduler.frame_arrived(frame.slot, frame.spans[-1].ended_s if frame.spans else None)

    def _outcome(self, frame: Codes, result: StepResult, span: Span) -> list[PipelineMessage]:
        slot, row = frame.slot, self._rows[frame.slot]
        if result.fault:
            self._close(slot, row.epoch)
            return [Failed(slot, row.epoch, Stage.STEP, result.fault)]
        text, tokens = row.decode_text(result.text_token), serialize_log(result.log)
        codes = Codes(slot, row.epoch, frame.seq, result.codes, text, frame.dropped, (*frame.spans, span), tokens)
        row.sent.add(codes)
        over = row.steering.advance(result.text_token)
        return [codes, *(Said(slot, row.epoch, end.sentence, end.whole) for end in over)]
