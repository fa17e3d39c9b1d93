"""Brings calls back from their token logs, one after the other, in the time that the steps of live calls leave.

A log is prefilled chunk by chunk, and frames are read in between. Where the time is short the first steps are left out,
never the last `context`. A call whose prompt is not computed yet lets the others go first.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.checkpoints.files import ReportProgress, report_nothing
from workers.engine.delay_pattern import LogArray
from workers.engine.prompt import CHUNKS
from workers.engine.prompt_queue import PromptQueue
from workers.messages import FRAME_S, Failed, Resume, Resumed, Slot, Stage

if TYPE_CHECKING:
    from workers.engine.engine import Engine
    from workers.engine.loopback import LoopbackEngine

log = logging.getLogger(__name__)

PLANNED_SHARE = 0.5
"""Of the time that there is: live calls are stepped in between, and a pass may take longer than those before."""
LARGEST = max(CHUNKS)
WAITING_EVERY_S = 0.25
"""How often it is reported that all calls wait for prompts: nothing else shows that the engine does not hang."""


@dataclass
class _ResumingCall:
    """A call that is to be back at `until_s`: it began at step `first` of its log, None before that."""

    message: Resume
    log: LogArray
    until_s: float
    first: int | None = None
    done: int = 0
    """How many steps of the log were left out or prefilled."""

    @property
    def remaining(self) -> int:
        return len(self.log) - self.done

    def failed(self, reason: str, internal: bool = False) -> Failed:
        return Failed(self.message.slot, self.message.epoch, Stage.STEP, reason, internal)


class ResumeQueue:
    """The calls that come back to `engine`, in the order in which they wait."""

    def __init__(
        self,
        engine: "Engine | LoopbackEngine",
        prompts: PromptQueue,
        progress: ReportProgress = report_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._prompts, self._progress, self._clock = engine, prompts, progress, clock
        self._calls: dict[Slot, _ResumingCall] = {}
        self._worked_s = self._waiting_s = clock()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, message: Resume, steps: LogArray) -> None:
        """Let a call wait; `steps` are its log."""
        self._calls[message.slot] = _ResumingCall(message, steps, self._clock() + message.budget_s)

    def remove(self, slot: Slot) -> bool:
        """Forget a call, if it waits here; return whether it has not begun, so that the engine's slot is not open."""
        call = self._calls.pop(slot, None)
        return call is not None and call.first is None

    def due_s(self) -> float | None:
        """Return when to `work`: 0 for at once, None for never."""
        if not self._calls or self._next():
            return 0.0 if self._calls else None
        return min(self._until_s, self._waiting_s + WAITING_EVERY_S)

    @property
    def is_starved(self) -> bool:
        """Whether steps follow each other so closely that they leave no time at all."""
        return self.due_s() == 0.0 and self._clock() > self._worked_s + 1.5 * FRAME_S

    def chunk(self, free_s: float | None) -> int:
        """Return how many steps to prefill now, 0 for none; `free_s` is None while no call is live.

        As many as fit in before the next frame of a live call, but in the time of a frame as many as are needed for all
        to be back in time.
        """
        fitting, now = self._prompts.pace.chunk(free_s), self._clock()
        if free_s is None or now < self._worked_s + FRAME_S:
            return fitting
        planned = sum(self._affordable(call) if call.first is None else call.remaining for call in self._calls.values())
        needed = min(LARGEST, planned * FRAME_S / max(FRAME_S, self._until_s - now))
        return max(fitting, min(size for size in CHUNKS if size >= needed))

    def work(self, chunk: int) -> list[Resumed | Failed]:
        """Go on with the call whose turn it is; return the answer when it is back or cannot come back."""
        if not (call := self._next()):
            self._waiting_s = self._clock()
            self._progress("waiting for a prompt", 0, 0)
            late = [call for call in self._calls.values() if call.until_s <= self._clock()]
            return [call.failed("the prompt that the call began with is not here") for call in late]
        try:
            finite = self._advance(call, chunk)
        except Exception as error:  # memory is short, say: the others go on
            log.exception("slot %d: the call cannot be resumed", call.message.slot)
            return [call.failed(repr(error), internal=True)]
        if not finite:
            return [call.failed("the prefill computed NaN or infinity")]
        return [] if call.remaining else [self._resumed(call)]

    @property
    def _until_s(self) -> float:
        return min(call.until_s for call in self._calls.values())

    def _next(self) -> _ResumingCall | None:
        """Return the call that has begun, or the first that can; without one have a prompt computed."""
        calls = sorted(self._calls.values(), key=lambda call: call.first is None)
        ready = (call for call in calls if call.first is not None or self._prompts.has(call.message.persona.prompt))
        if not (call := next(ready, None)):
            self._prompts.hurry([call.message.persona.prompt for call in calls])
        return call

    def _affordable(self, call: _ResumingCall) -> int:
        """Return how many of the last steps can be prefilled in time, if the calls that wait share it."""
        pass_s = self._prompts.pace.expected_s(LARGEST)
        share_s = PLANNED_SHARE * (call.until_s - self._clock()) / len(self._calls)
        steps = len(call.log) if pass_s in (0.0, float("inf")) else int(LARGEST * share_s / pass_s)
        return min(len(call.log), max(self._engine.context, steps))

    def _advance(self, call: _ResumingCall, chunk: int) -> bool:
        """Begin or go on; return whether all was finite."""
        message, slot = call.message, call.message.slot
        if call.first is None:
            first = len(call.log) - self._affordable(call)
            prompt, _ = self._prompts.require(message.persona.prompt, idle=False)
            self._engine.open(slot, message.seed, message.persona.sampling, prompt)
            call.first = call.done = first
            self._engine.leave_out(slot, call.log[:first], message.skipped)
        self._worked_s = self._clock()
        steps = call.log[call.done : call.done + chunk]
        finite = self._engine.prefill(slot, steps)
        call.done += len(steps)
        if len(steps):
            self._prompts.pace.took(len(steps), self._clock() - self._worked_s)
        self._progress("resuming a call", call.done, len(call.log))
        return finite

    def _resumed(self, call: _ResumingCall) -> Resumed:
        message, first = call.message, call.first or 0
        self._calls.pop(message.slot)
        return Resumed(message.slot, message.epoch, len(call.log) - first, message.skipped + first)
