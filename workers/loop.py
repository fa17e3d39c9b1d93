"""The loop of every worker: wait for a message, pass it to the stage, send on what comes out.

A stage decides and computes, the loop does the I/O. It waits on descriptors alone and between two units of work reads
whatever has arrived, so that a stage always has the newest frame. That includes the rest of a message which is larger
than the socket's buffer, as a `Resume` is: with a unit of work between its parts it would take seconds.
"""

import contextlib
import logging
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil

from workers.control_messages import Ping, Relink, WorkerVitals
from workers.histogram import ROW_BOUNDS, Histogram
from workers.link import Link, LinkClosed
from workers.messages import (
    Codes,
    Failed,
    Frame,
    Message,
    PromptMessage,
    PromptRefused,
    SpeechMessage,
    Stage,
    TranscriptMessage,
)

log = logging.getLogger(__name__)


StageMessage = Message | SpeechMessage | TranscriptMessage


class FrameProcessor(Protocol):
    """One stage of the pipeline: frames of all slots in, frames out. What the encoder has for the transcriber too."""

    def receive(self, message: Any) -> Sequence[StageMessage]:
        """Handle a message; return what goes on to the next stage at once."""

    def due_s(self) -> float | None:
        """When on the monotonic clock `work` is to be called: 0 for at once, None for not before the next message."""

    def work(self) -> Sequence[StageMessage]:
        """Do one unit of work, a batch of frames; return what goes on to the next stage."""


def frames_in(messages: Sequence[StageMessage]) -> int:
    """Return how many of the messages a unit of work has computed, one for each call that it served."""
    return sum(isinstance(message, Frame | Codes | Failed) for message in messages)


@dataclass
class WorkerLoop:
    """Runs the `stage` called `name` between its neighbours until the supervisor closes the control link.

    Messages for a neighbour that has died are lost. `spares` are the links, upstream and downstream by turns, to the
    neighbours that follow when these are lost (`Relink`). `device_bytes` returns what this process holds of a GPU's
    memory, `rows_of` how many calls the unit of work served that yielded these messages. Work waits `rest_within_s` at
    most for each next part of a message.
    """

    name: str
    control: Link
    upstream: Link
    downstream: Link
    stage: FrameProcessor
    device_bytes: Callable[[], int] = lambda: 0
    rows_of: Callable[[Sequence[StageMessage]], int] = frames_in
    spares: Sequence[Link] = ()
    rest_within_s: float = 0.01
    _work_s: Histogram = field(default_factory=Histogram)
    _rows: Histogram = field(default_factory=lambda: Histogram(ROW_BOUNDS))
    _process: psutil.Process = field(default_factory=psutil.Process)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _due_s: float | None = None
    _read_s: float = 0.0
    _dropped: int = 0
    """On the way to former neighbours."""

    def __post_init__(self) -> None:
        self._selector.register(self.control, selectors.EVENT_READ, self._read_control)
        self._selector.register(self.upstream, selectors.EVENT_READ, self._read)

    def run(self) -> None:
        """Return when the control link closes, which is how a worker is told to stop."""
        with self._selector, contextlib.suppress(LinkClosed):
            while True:
                self.run_once()

    def run_once(self, longest_s: float = float("inf")) -> None:
        """Wait for a message or until work is due, `longest_s` at most; do one unit of work.

        Raises LinkClosed when the supervisor has closed the control link: also from a stage that reports its progress.
        """
        if self._due_s is not None:
            longest_s = min(longest_s, max(0.0, self._due_s - time.monotonic()))
        for key, _ in self._selector.select(None if longest_s == float("inf") else longest_s):
            key.data()
        self._due_s = self.stage.due_s()
        if self._due_s is not None and self.upstream.receiving:
            self._due_s = max(self._due_s, self._read_s + self.rest_within_s)
        if self._due_s is not None and time.monotonic() >= self._due_s:
            self._work()
            self._due_s = self.stage.due_s()

    def _work(self) -> None:
        started_s = time.monotonic()
        messages = self.stage.work()
        if rows := self.rows_of(messages):
            self._work_s.add(time.monotonic() - started_s)
            self._rows.add(rows)
        self._send(messages)

    def _read_control(self) -> None:
        for message in self.control.receive():
            match message:
                case Ping():
                    self.control.send(self._vitals())
                case Relink():
                    self._relink()
                    self._send(self.stage.receive(message))
                case _:
                    raise TypeError(f"no message for a running worker: {message!r}")

    def _relink(self) -> None:
        """Go on with other neighbours; what the former ones have sent or were to be sent is lost."""
        self._dropped += self.downstream.dropped
        for link in (self.upstream, self.downstream):
            if link in self._selector.get_map():
                self._selector.unregister(link)
            link.close()
        self.upstream, self.downstream, *self.spares = self.spares
        self._selector.register(self.upstream, selectors.EVENT_READ, self._read)

    def _vitals(self) -> WorkerVitals:
        with self._process.oneshot():
            times, memory_bytes = self._process.cpu_times(), self._process.memory_info().rss
        cpu_s, dropped = times.user + times.system, self._dropped + self.downstream.dropped
        return WorkerVitals(memory_bytes, self.device_bytes(), cpu_s, self._work_s, self._rows, dropped)

    def _read(self) -> None:
        self._read_s = time.monotonic()
        try:
            messages = self.upstream.receive()
        except LinkClosed:
            self._selector.unregister(self.upstream)
            return
        for message in messages:
            self._send(self._receive(message))

    def _receive(self, message: Message | SpeechMessage) -> Sequence[StageMessage]:
        try:
            return self.stage.receive(message)
        except Exception as error:  # ends this call; the messages that came with it belong to others
            if isinstance(message, SpeechMessage):
                raise  # no call's end: the transcriber is started again
            if isinstance(message, PromptMessage):
                log.exception("%s cannot be handled", type(message).__name__)
                return [PromptRefused(message.key, repr(error))]
            log.exception("slot %d: %s cannot be handled, its call ends", message.slot, type(message).__name__)
            return [Failed(message.slot, message.epoch, Stage(self.name), repr(error), internal=True)]

    def _send(self, messages: Sequence[StageMessage]) -> None:
        try:
            for message in messages:
                (self.control if isinstance(message, SpeechMessage) else self.downstream).send(message)
        except LinkClosed:
            return
        if self.downstream.blocked and self.downstream not in self._selector.get_map():
            self._selector.register(self.downstream, selectors.EVENT_WRITE, self._flush)

    def _flush(self) -> None:
        try:
            self.downstream.flush()
            done = not self.downstream.blocked
        except LinkClosed:
            done = True
        if done and self.downstream in self._selector.get_map():
            self._selector.unregister(self.downstream)
