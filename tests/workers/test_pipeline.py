"""The app's ends of the pipeline; the workers' ends of its links are in our hands."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from workers.link import Link, pair
from workers.messages import Close, Epoch, Failed, Frame, Open, PipelineMessage, Slot, Stage
from workers.pipeline import ending_calls
from workers.process import LoopLink

FAULTY = Slot(1)


class App:
    """The app's end; handling a message of the slot `FAULTY` raises."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[PipelineMessage] = asyncio.Queue()
        (ours, theirs) = pair()
        self.end, self.worker = LoopLink(ours, ending_calls(self.handle)), Link(theirs)

    def handle(self, message: PipelineMessage) -> None:
        if message.slot == FAULTY and not isinstance(message, Failed):
            raise KeyError(message.slot)
        self.arrived.put_nowait(message)

    async def next(self) -> PipelineMessage:
        async with asyncio.timeout(10):
            return await self.arrived.get()

    def close(self) -> None:
        self.end.close()
        self.worker.close()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    yield app
    app.close()


def opened(slot: int) -> Open:
    return Open(Slot(slot), Epoch(1))


async def test_messages_go_to_the_encoder_and_come_back_from_the_decoder(app: App) -> None:
    app.end.send(opened(0))
    assert app.worker.receive() == [opened(0)]
    app.worker.send(opened(0))
    assert await app.next() == opened(0)


async def test_more_than_a_socket_holds_goes_out_as_the_encoder_reads(app: App) -> None:
    frames = [Frame(Slot(0), Epoch(1), seq, np.zeros(1_920, np.float32)) for seq in range(60)]
    for frame in frames:
        app.end.send(frame)
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    seqs: list[int] = []

    def read() -> None:
        seqs.extend(m.seq for m in app.worker.receive() if isinstance(m, Frame))
        if len(seqs) == len(frames):
            done.set()

    loop.add_reader(app.worker, read)
    async with asyncio.timeout(10):
        await done.wait()
    loop.remove_reader(app.worker)
    assert seqs == list(range(60))


async def test_what_a_dead_encoder_should_have_got_is_lost_without_a_word(app: App) -> None:
    app.worker.close()
    for _ in range(3):
        app.end.send(opened(0))


async def test_a_decoder_that_ends_says_its_last_words_first(app: App) -> None:
    app.worker.send(Close(Slot(0), Epoch(1)))
    app.worker.close()
    assert await app.next() == Close(Slot(0), Epoch(1))


async def test_an_exception_ends_the_call_of_its_message_and_touches_no_other(app: App) -> None:
    for slot in (0, FAULTY, 2):
        app.worker.send(opened(slot))
    assert [await app.next() for _ in range(3)] == [
        opened(0),
        Failed(FAULTY, Epoch(1), Stage.DECODE, "KeyError(1)", internal=True),
        opened(2),
    ]
