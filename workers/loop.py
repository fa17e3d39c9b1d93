"""The loop of every worker: wait for a message, pass it to the station, send on what comes out.

A station decides and computes, the loop talks. The loop waits on descriptors alone and between two units of work takes
in whatever has arrived, so that a station always knows of the newest frame.
"""

import logging
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from workers.link import Link, LinkClosed
from workers.messages import Attach, Direction, Ping, PipelineMessage, Pong, Vitals, WorkerConfig
from workers.vitals import VitalsGauge

log = logging.getLogger(__name__)


class PipelineStage(Protocol):
    """One stage of the ring: frames of some slots in, frames out."""

    def receive(self, message: PipelineMessage) -> list[PipelineMessage]:
        """Take a message in; return what must go on at once."""

    def due_s(self) -> float | None:
        """When on the monotonic clock `work` is to be called: 0 for at once, None for not before the next message."""

    def work(self) -> list[PipelineMessage]:
        """Do one unit of work, a frame or a tick; return what goes on to the next stage."""


@dataclass
class WorkerLoop:
    """Run `station` between its neighbours until the supervisor goes away.

    `device_bytes` tells what it holds of a GPU's memory.
    """

    config: WorkerConfig
    control: Link
    station: PipelineStage
    device_bytes: Callable[[], int] = lambda: 0
    _vitals: VitalsGauge = field(default_factory=VitalsGauge)
    _dropped: int = 0
    """Frames dropped on links that are gone."""
    _upstream: dict[int, Link] = field(default_factory=dict)
    _downstream: dict[int, Link] = field(default_factory=dict)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def run(self) -> None:
        """Return when the control link closes, which is how a worker is told to stop."""
        self._selector.register(self.control, selectors.EVENT_READ, self._read_control)
        try:
            while True:
                self._turn()
        except ControlClosed:
            return

    def _turn(self) -> None:
        ready = self._selector.select(self._wait_s())
        for key, _ in sorted(ready, key=lambda item: item[0].fileobj is not self.control):  # new links before messages
            key.data()
        due_s = self.station.due_s()
        if due_s is not None and time.monotonic() >= due_s:
            self._work()

    def _work(self) -> None:
        started_s = time.monotonic()
        messages = self.station.work()
        self._vitals.worked(time.monotonic() - started_s, len(messages))
        self._send_on(messages)

    def _wait_s(self) -> float | None:
        due_s = self.station.due_s()
        return None if due_s is None else max(0.0, due_s - time.monotonic())

    def _read_control(self) -> None:
        try:
            messages = self.control.receive()
        except LinkClosed as error:
            raise ControlClosed from error
        for message in messages:
            match message:
                case Ping(number):
                    self.control.send(Pong(number, self._read_vitals()))
                case Attach(direction, index):
                    self._attach(direction, index)
                case _:
                    raise TypeError(f"no message for a running worker: {message!r}")

    def _read_vitals(self) -> Vitals:
        dropped = self._dropped + sum(link.dropped for link in self._downstream.values())
        return self._vitals.read(dropped, self.device_bytes())

    def _attach(self, direction: Direction, index: int) -> None:
        links = self._upstream if direction is Direction.UPSTREAM else self._downstream
        if old := links.pop(index, None):
            self._detach(old)
        link = links[index] = Link(self.control.take_socket())
        if direction is Direction.UPSTREAM:
            self._selector.register(link, selectors.EVENT_READ, lambda: self._read(index, link))

    def _read(self, index: int, link: Link) -> None:
        if self._upstream.get(index) is not link:  # replaced earlier in this turn
            return
        try:
            messages = link.receive()
        except LinkClosed:
            del self._upstream[index]
            self._detach(link)
            return
        for message in messages:
            self._send_on(self.station.receive(message))  # type: ignore[arg-type]

    def _send_on(self, messages: list[PipelineMessage]) -> None:
        for message in messages:
            index = message.slot % max(1, self.config.downstream_count)
            link = self._downstream.get(index)
            if link is not None:
                self._send(index, link, message)

    def _send(self, index: int, link: Link, message: PipelineMessage) -> None:
        try:
            link.send(message)
        except LinkClosed:
            self._lose_downstream(index, link)
            return
        if link.blocked:
            self._watch_writable(index, link)

    def _watch_writable(self, index: int, link: Link) -> None:
        if link not in self._selector.get_map():
            self._selector.register(link, selectors.EVENT_WRITE, lambda: self._flush(index, link))

    def _flush(self, index: int, link: Link) -> None:
        if self._downstream.get(index) is not link:  # lost or replaced earlier in this turn
            return
        try:
            link.flush()
        except LinkClosed:
            self._lose_downstream(index, link)
            return
        if not link.blocked:
            self._selector.unregister(link)

    def _lose_downstream(self, index: int, link: Link) -> None:
        self._downstream.pop(index, None)
        self._detach(link)

    def _detach(self, link: Link) -> None:
        self._dropped += link.dropped
        if link in self._selector.get_map():
            self._selector.unregister(link)
        link.close()


class ControlClosed(Exception):
    """The supervisor has closed the control link."""
