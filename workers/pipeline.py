"""The app's place on the ring, and the links between the workers.

The supervisor makes every link, hands one end to each neighbour, and makes it anew when either is started again. A
worker that is down has no links; what is sent to it is lost, as the calls that it served are.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from workers.link import Link, LinkClosed, pair
from workers.messages import Attach, Direction, PipelineMessage, Stage

WorkerName = tuple[Stage, int]


@dataclass(frozen=True, slots=True)
class Edge:
    """A link from one worker to the next; None stands for the app."""

    source: WorkerName | None
    target: WorkerName | None

    def index_at(self, end: WorkerName) -> int:
        """Return the number by which the worker at one end knows the other: only codec workers are many."""
        other = self.target if end == self.source else self.source
        return other[1] if other else 0


def edges(codecs: int) -> Iterator[Edge]:
    """Yield the links of a ring with `codecs` encoders, one engine and as many decoders."""
    engine = (Stage.STEP, 0)
    for index in range(codecs):
        encoder, decoder = (Stage.ENCODE, index), (Stage.DECODE, index)
        yield Edge(None, encoder)
        yield Edge(encoder, engine)
        yield Edge(engine, decoder)
        yield Edge(decoder, None)


class AppEnd:
    """Where messages leave the app for the encoders and come back from the decoders; all of it on one event loop."""

    def __init__(self, codecs: int, on_message: Callable[[PipelineMessage], None]) -> None:
        self._codecs = codecs
        self._on_message = on_message
        self._encoders: dict[int, Link] = {}
        self._decoders: dict[int, Link] = {}
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Frames that found no room on the way to an encoder."""
        return self._dropped + sum(link.dropped for link in self._encoders.values())

    def send(self, message: PipelineMessage) -> None:
        """Send to the encoder of the message's slot. Never waits."""
        index = message.slot % self._codecs
        if link := self._encoders.get(index):
            try:
                link.send(message)
            except LinkClosed:
                self._drop(self._encoders, index)
                return
            if link.blocked:
                asyncio.get_running_loop().add_writer(link, self._flush, index, link)

    def attach(self, edge: Edge, link: Link) -> None:
        """Take the app's end of a new link."""
        if edge.source is None:
            assert edge.target is not None
            self._drop(self._encoders, edge.target[1])
            self._encoders[edge.target[1]] = link
        else:
            index = edge.source[1]
            self._drop(self._decoders, index)
            self._decoders[index] = link
            asyncio.get_running_loop().add_reader(link, self._read, index, link)

    def close(self) -> None:
        for links in (self._encoders, self._decoders):
            for index in list(links):
                self._drop(links, index)

    def _read(self, index: int, link: Link) -> None:
        try:
            messages = link.receive()
        except LinkClosed:
            self._drop(self._decoders, index)
            return
        for message in messages:
            self._on_message(message)  # type: ignore[arg-type]

    def _flush(self, index: int, link: Link) -> None:
        try:
            link.flush()
        except LinkClosed:
            self._drop(self._encoders, index)
            return
        if not link.blocked:
            asyncio.get_running_loop().remove_writer(link)

    def _drop(self, links: dict[int, Link], index: int) -> None:
        if link := links.pop(index, None):
            loop = asyncio.get_running_loop()
            loop.remove_reader(link)
            loop.remove_writer(link)
            self._dropped += link.dropped
            link.close()


def connect(edge: Edge, control_of: Callable[[WorkerName], Link | None], app: AppEnd) -> None:
    """Make the link of `edge` if both its ends are up."""
    source = control_of(edge.source) if edge.source else None
    target = control_of(edge.target) if edge.target else None
    if (edge.source and not source) or (edge.target and not target):
        return
    left, right = pair()
    for name, control, direction, end in (
        (edge.source, source, Direction.DOWNSTREAM, left),
        (edge.target, target, Direction.UPSTREAM, right),
    ):
        if name is None:
            app.attach(edge, Link(end))
            continue
        assert control is not None
        with end, suppress(LinkClosed):  # a worker that has just died is noticed by its exit
            control.send(Attach(direction, edge.index_at(name)), end.fileno())
