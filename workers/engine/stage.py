"""The engine's stage: one step of the batch serves every slot that has a frame waiting.

A step runs as soon as every live call has a frame waiting, or when the oldest frame has waited long enough
(`BatchScheduler`). A call without a frame is left out. A call counts as live while its frames come. The silence of a
greeting never delays other calls: it is stepped along with their frames, and between them where a step fits in. While
no step runs, the engine's keep-alive does.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.messages import (
    Close,
    CodeArray,
    Codes,
    Epoch,
    Failed,
    Frame,
    Open,
    Payload,
    PipelineMessage,
    Slot,
    Span,
    Stage,
)
from workers.scheduler import BatchScheduler

PATIENCE_S = 0.025
"""A packet, by which the frames of calls in phase may differ, and a little."""


class Step(Protocol):
    """What one step of one slot yields."""

    @property
    def text_token(self) -> int: ...

    @property
    def codes(self) -> Payload | None: ...

    @property
    def log(self) -> NDArray[np.int32] | None: ...

    @property
    def fault(self) -> str: ...


class Engine(Protocol):
    """The batched model, or the loopback engine of the line test."""

    @property
    def keep_alive_s(self) -> float | None: ...

    def keep_alive(self) -> None: ...

    def open(self, slot: Slot, seed: int | None = None) -> None: ...

    def close(self, slot: Slot) -> None: ...

    def step(self, codes: Mapping[Slot, CodeArray]) -> Mapping[Slot, Step]: ...


class Pieces(Protocol):
    """One call's text tokens as strings."""

    def push(self, token: int) -> str: ...


@dataclass
class _Row:
    """One live slot: what waits for its next step. The silence of its greeting goes before what the caller sends."""

    epoch: Epoch
    pieces: Pieces
    greeting: deque[Payload]
    greeted: int = 0
    frame: Codes | None = None

    def take(self, slot: Slot) -> Codes | None:
        if self.greeting:
            self.greeted += 1
            return Codes(slot, self.epoch, self.greeted - 1, self.greeting.popleft())
        frame, self.frame = self.frame, None
        return frame


class EngineStage:
    """Of each call at most one frame waits for the step; an older one is dropped and counted."""

    def __init__(
        self, engine: Engine, pieces: Callable[[], Pieces], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._pieces = pieces
        self._clock = clock
        self._scheduler = BatchScheduler(PATIENCE_S, clock)
        self._rows: dict[Slot, _Row] = {}
        self._worked_s = clock()

    def due_s(self) -> float | None:
        waiting = [slot for slot, row in self._rows.items() if row.frame]
        if waiting:
            return self._scheduler.due_s(waiting)
        greets = any(row.greeting for row in self._rows.values())
        return self._scheduler.gap_s() if greets else self._keep_alive_due_s()

    def _keep_alive_due_s(self) -> float | None:
        return None if self._engine.keep_alive_s is None else self._worked_s + self._engine.keep_alive_s

    def receive(self, message: PipelineMessage) -> list[PipelineMessage]:
        match message:
            case Codes(slot, epoch):
                row = self._rows.get(slot)
                if row and row.epoch == epoch:
                    self._wait(row, message)
                return []
            case Open(slot, epoch):
                self._open(message)
                return [replace(message, silence=None)]
            case Close(slot, epoch) | Failed(slot, epoch):
                self._close(slot, epoch)
                return [message]
            case Frame():
                raise TypeError("frames of PCM are not for the engine")

    def work(self) -> list[PipelineMessage]:
        self._worked_s = self._clock()
        taken = {slot: frame for slot, row in self._rows.items() if (frame := row.take(slot))}
        if not taken:
            self._engine.keep_alive()
        codes: dict[Slot, CodeArray] = {slot: frame.codes for slot, frame in taken.items()}  # type: ignore[misc]
        started_s = self._clock()
        steps = self._engine.step(codes)
        span = Span(Stage.STEP, started_s, self._clock())
        if steps:
            self._scheduler.step_took(span.ended_s - span.started_s)
        return [self._outcome(slot, taken[slot], step, span) for slot, step in steps.items()]

    def _open(self, message: Open) -> None:
        if self._rows.pop(message.slot, None):
            self._engine.close(message.slot)
            self._scheduler.call_ended(message.slot)
        greeting = deque(message.silence if message.silence is not None else ())
        row = _Row(message.epoch, self._pieces(), greeting)
        self._engine.open(message.slot, message.seed)
        self._rows[message.slot] = row

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

    def _fail(self, slot: Slot, reason: str) -> Failed:
        epoch = self._rows[slot].epoch
        self._close(slot, epoch)
        return Failed(slot, epoch, Stage.STEP, reason)

    def _outcome(self, slot: Slot, frame: Codes, step: Step, span: Span) -> Codes | Failed:
        if step.fault:
            return self._fail(slot, step.fault)
        row = self._rows[slot]
        text = row.pieces.push(step.text_token)
        tokens = b"" if step.log is None else step.log.astype("<i2").tobytes()
        return Codes(slot, row.epoch, frame.seq, step.codes, text, frame.dropped, (*frame.spans, span), tokens)
