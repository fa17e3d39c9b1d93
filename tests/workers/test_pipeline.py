"""A link on the event loop of the app; its other end is in our hands."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.processes.pipeline import PATIENCE_S
from workers.link import Link, pair
from workers.messages import (
    Close,
    DropPrompt,
    Epoch,
    Failed,
    Frame,
    Message,
    Open,
    PipelineMessage,
    PromptMessage,
    Slot,
    Stage,
)
from workers.pipeline import ending_calls
from workers.process import LoopLink

FAULTY = Slot(1)


class App:
    """The app's end; handling a message of the slot `FAULTY` raises."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[PipelineMessage] = asyncio.Queue()
        ours, theirs = pair()
        self.link, self.worker = LoopLink(ours, ending_calls(self.handle)), Link(theirs)

    async def next(self) -> PipelineMessage:
        async with asyncio.timeout(PATIENCE_S):
            return await self.arrived.get()

    def handle(self, message: Message) -> None:
        if isinstance(message, PromptMessage):
            raise KeyError(message.key)
        if message.slot == FAULTY and not isinstance(message, Failed):
            raise KeyError(message.slot)
        self.arrived.put_nowait(message)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    yield app
    app.link.close()
    app.worker.close()


def opened(slot: int) -> Open:
    return Open(Slot(slot), Epoch(1))


async def test_more_than_a_socket_holds_goes_out_as_the_worker_reads(app: App) -> None:
    for seq in range(60):
        app.link.send(Frame(Slot(0), Epoch(1), seq, np.zeros(1_920, np.float32)))
    seqs: list[int] = []
    while len(seqs) < 60:
        await asyncio.sleep(0)
        seqs += [message.seq for message in app.worker.receive()]
    assert seqs == list(range(60))


async def test_what_a_dead_worker_should_have_got_is_lost_and_what_it_sent_before_is_not(app: App) -> None:
    app.worker.send(Close(Slot(0), Epoch(1)))
    app.worker.close()
    for _ in range(3):
        app.link.send(opened(0))
    assert await app.next() == Close(Slot(0), Epoch(1))


async def test_an_exception_ends_the_call_of_its_message_and_touches_no_other(app: App) -> None:
    app.worker.send(DropPrompt("ada"))
    for slot in (0, FAULTY, 2):
        app.worker.send(opened(slot))
    failed = Failed(FAULTY, Epoch(1), Stage.DECODE, "KeyError(1)", internal=True)
    assert [await app.next() for _ in range(3)] == [opened(0), failed, opened(2)]
