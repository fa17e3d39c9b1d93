"""Real codec and engine processes, for a session in virtual time that runs in another thread."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.config import CodecKind, read_settings
from app.server.assembly import worker_config
from workers.messages import CallPersona, Close, Epoch, Failed, Frame, Open, PipelineMessage, Slot
from workers.supervisor import Supervisor

SLOT = Slot(0)


class RealWorkers:
    """The real workers, one frame at a time, for a caller in another thread."""

    def __init__(self, supervisor: Supervisor, arrived: "asyncio.Queue[PipelineMessage]") -> None:
        self._supervisor, self._arrived = supervisor, arrived
        self._loop = asyncio.get_running_loop()
        self._epoch = Epoch(0)

    async def open(self, greeting_frames: int = 0, greeting: str = "") -> list[Frame]:
        """Begin a call, with these words if there are any; return the frames of its greeting."""
        self._epoch = Epoch(self._epoch + 1)
        self._supervisor.send(Open(SLOT, self._epoch, greeting_frames, persona=CallPersona(greeting)))
        return [await self._next_frame() for _ in range(greeting_frames)]

    def close(self) -> None:
        self._supervisor.send(Close(SLOT, self._epoch))

    def __call__(self, frame: Frame) -> Frame:
        return asyncio.run_coroutine_threadsafe(self._round(frame), self._loop).result()

    async def _round(self, frame: Frame) -> Frame:
        self._supervisor.send(Frame(SLOT, self._epoch, frame.seq, frame.pcm))
        return await self._next_frame()

    async def _next_frame(self) -> Frame:
        while True:
            message = await self._arrived.get()
            assert not isinstance(message, Failed), message
            if isinstance(message, Frame) and message.epoch == self._epoch:
                return message


@asynccontextmanager
async def real_workers(
    checkpoint: str, codec: CodecKind, cache: Path, greeting_frames: int = 0, lora: str = ""
) -> AsyncIterator[RealWorkers]:
    """Run a codec and an engine of their own for a while."""
    model = {"moshi_checkpoint": checkpoint, "moshi_lora": lora, "cache_dir": cache, "codec": codec}
    settings = read_settings(**model, greeting_frames=greeting_frames)
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    supervisor = Supervisor(worker_config(settings), arrived.put_nowait, lambda _: None, lambda _: None)
    running = asyncio.create_task(supervisor.run())
    try:
        await asyncio.wait([running, asyncio.create_task(supervisor.wait_ready())], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        yield RealWorkers(supervisor, arrived)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
