import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from workers.link import Link, pair
from workers.messages import Attach, Close, Direction, Epoch, Frame, Open, PipelineMessage, Slot, Stage
from workers.pipeline import AppEnd, Edge, WorkerName, connect, edges

ENGINE: WorkerName = (Stage.STEP, 0)
ENCODERS: list[WorkerName] = [(Stage.ENCODE, 0), (Stage.ENCODE, 1)]
DECODERS: list[WorkerName] = [(Stage.DECODE, 0), (Stage.DECODE, 1)]


def test_a_ring_of_one_pair() -> None:
    assert [(edge.source, edge.target) for edge in edges(1)] == [
        (None, ENCODERS[0]),
        (ENCODERS[0], ENGINE),
        (ENGINE, DECODERS[0]),
        (DECODERS[0], None),
    ]


def test_a_ring_of_many_pairs_meets_in_one_engine() -> None:
    around = list(edges(2))
    assert len(around) == 8
    assert {edge.source for edge in around if edge.target == ENGINE} == set(ENCODERS)
    assert {edge.target for edge in around if edge.source == ENGINE} == set(DECODERS)
    assert {edge.target for edge in around if edge.source is None} == set(ENCODERS)
    assert {edge.source for edge in around if edge.target is None} == set(DECODERS)


@pytest.mark.parametrize("index", [0, 1])
def test_the_engine_counts_its_codecs_and_everybody_else_has_one_neighbour(index: int) -> None:
    encoder, decoder = ENCODERS[index], DECODERS[index]
    assert Edge(encoder, ENGINE).index_at(ENGINE) == index
    assert Edge(ENGINE, decoder).index_at(ENGINE) == index
    assert Edge(encoder, ENGINE).index_at(encoder) == 0
    assert Edge(ENGINE, decoder).index_at(decoder) == 0
    assert Edge(None, encoder).index_at(encoder) == 0
    assert Edge(decoder, None).index_at(decoder) == 0


class App:
    """The app's end of a ring of two pairs, with the workers' ends of its links in our hands."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[PipelineMessage] = asyncio.Queue()
        self.end = AppEnd(2, self.arrived.put_nowait)
        self.encoders = [self.attach(Edge(None, name)) for name in ENCODERS]
        self.decoders = [self.attach(Edge(name, None)) for name in DECODERS]

    def attach(self, edge: Edge) -> Link:
        ours, theirs = pair()
        self.end.attach(edge, Link(ours))
        return Link(theirs)

    def close(self) -> None:
        self.end.close()
        for link in (*self.encoders, *self.decoders):
            link.close()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    yield app
    app.close()


async def arrival(app: App) -> PipelineMessage:
    async with asyncio.timeout(10):
        return await app.arrived.get()


async def test_a_message_goes_to_the_encoder_of_its_slot(app: App) -> None:
    for slot in range(4):
        app.end.send(Open(Slot(slot), Epoch(1)))
    slots = [[m.slot for m in encoder.receive() if isinstance(m, Open)] for encoder in app.encoders]
    assert slots == [[0, 2], [1, 3]]


async def test_messages_come_back_from_every_decoder(app: App) -> None:
    for index, decoder in enumerate(app.decoders):
        decoder.send(Close(Slot(index), Epoch(1)))
    assert {(await arrival(app)).slot for _ in app.decoders} == {0, 1}


async def test_more_than_a_socket_holds_goes_out_as_the_encoder_reads(app: App) -> None:
    frames = [Frame(Slot(0), Epoch(1), seq, np.zeros(1_920, np.float32)) for seq in range(60)]
    for frame in frames:
        app.end.send(frame)
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    seqs: list[int] = []

    def read() -> None:
        seqs.extend(m.seq for m in app.encoders[0].receive() if isinstance(m, Frame))
        if len(seqs) == len(frames):
            done.set()

    loop.add_reader(app.encoders[0], read)
    async with asyncio.timeout(10):
        await done.wait()
    loop.remove_reader(app.encoders[0])
    assert seqs == list(range(60))


async def test_what_a_dead_encoder_should_have_got_is_lost_and_nothing_else(app: App) -> None:
    app.encoders[0].close()
    for _ in range(3):
        app.end.send(Open(Slot(0), Epoch(1)))
    app.end.send(Open(Slot(1), Epoch(1)))
    assert app.encoders[1].receive() == [Open(Slot(1), Epoch(1))]


async def test_before_any_link_is_made_messages_are_lost_without_a_word() -> None:
    AppEnd(1, lambda _: None).send(Open(Slot(0), Epoch(1)))


async def test_a_new_link_takes_the_place_of_the_old_one(app: App) -> None:
    encoder, decoder = app.attach(Edge(None, ENCODERS[0])), app.attach(Edge(DECODERS[0], None))
    app.end.send(Open(Slot(0), Epoch(1)))
    decoder.send(Close(Slot(0), Epoch(1)))
    assert encoder.receive() == [Open(Slot(0), Epoch(1))]
    assert await arrival(app) == Close(Slot(0), Epoch(1))
    encoder.close()
    decoder.close()


async def test_a_decoder_that_dies_says_its_last_words_first(app: App) -> None:
    app.decoders[0].send(Close(Slot(0), Epoch(1)))
    app.decoders[0].close()
    app.decoders[1].send(Close(Slot(1), Epoch(1)))
    assert {(await arrival(app)).slot for _ in range(2)} == {0, 1}


def joined(edge: Edge, up: set[WorkerName], app: App) -> dict[WorkerName, tuple[list[object], Link | None]]:
    """Connect an edge of which these workers are up; return what each was told and the link it got."""
    controls = {name: tuple(map(Link, pair())) for name in up}
    connect(edge, lambda name: controls[name][0] if name in controls else None, app.end)
    told: dict[WorkerName, tuple[list[object], Link | None]] = {}
    for name, (ours, theirs) in controls.items():
        messages = theirs.receive()
        told[name] = (messages, Link(theirs.take_socket()) if messages else None)
        ours.close()
        theirs.close()
    return told


async def test_two_workers_are_joined_by_a_link_of_their_own(app: App) -> None:
    told = joined(Edge(ENCODERS[1], ENGINE), {ENCODERS[1], ENGINE}, app)
    (to_encoder, left), (to_engine, right) = told[ENCODERS[1]], told[ENGINE]
    assert to_encoder == [Attach(Direction.DOWNSTREAM, 0)]
    assert to_engine == [Attach(Direction.UPSTREAM, 1)]
    assert left is not None
    assert right is not None
    left.send("passed on")
    assert right.receive() == ["passed on"]
    left.close()
    right.close()


@pytest.mark.parametrize("up", [ENCODERS[1], ENGINE])
async def test_nobody_is_joined_with_a_worker_that_is_down(app: App, up: WorkerName) -> None:
    assert joined(Edge(ENCODERS[1], ENGINE), {up}, app) == {up: ([], None)}


async def test_the_app_is_joined_with_an_encoder_and_a_decoder(app: App) -> None:
    (_, encoder) = joined(Edge(None, ENCODERS[0]), {ENCODERS[0]}, app)[ENCODERS[0]]
    (_, decoder) = joined(Edge(DECODERS[0], None), {DECODERS[0]}, app)[DECODERS[0]]
    assert encoder is not None
    assert decoder is not None
    app.end.send(Open(Slot(0), Epoch(1)))
    decoder.send(Close(Slot(0), Epoch(1)))
    assert encoder.receive() == [Open(Slot(0), Epoch(1))]
    assert await arrival(app) == Close(Slot(0), Epoch(1))
    encoder.close()
    decoder.close()
