"""Real codec and engine processes, for a session in virtual time that runs in another thread."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.config import CodecKind, read_settings
from app.server.assembly import worker_config
from tests.processes.pipeline import SupervisedPipeline, running
from tests.waiting import until
from workers.messages import (
    CallPersona,
    Close,
    Epoch,
    Failed,
    Frame,
    Open,
    Slot,
    TranscriptEnd,
    TranscriptMessage,
)
from workers.supervisor import Supervisor

SLOT = Slot(0)
IN_STEP = 30
"""How many frames go to a transcriber between two looks at how far it is; more than twice as many may wait."""


async def caught_up(supervisor: Supervisor, frames: int) -> None:
    """Wait for the transcriber, if there is one, to have stepped so many frames: virtual time runs ahead of it."""
    if beside := supervisor.transcription:
        await until(lambda: beside.vitals and beside.vitals.rows.total >= frames)


class RealWorkers:
    """The real workers, one frame at a time, for a caller in another thread."""

    def __init__(self, pipeline: SupervisedPipeline) -> None:
        self._pipeline, self._supervisor = pipeline, pipeline.supervisor
        self._loop = asyncio.get_running_loop()
        self._epoch = Epoch(0)
        self._frames = 0

    async def open(self, greeting_frames: int = 0, greeting: str = "") -> list[Frame]:
        """Begin a call, with these words if there are any; return the frames of its greeting."""
        self._epoch = Epoch(self._epoch + 1)
        self._supervisor.send(Open(SLOT, self._epoch, greeting_frames, persona=CallPersona(greeting)))
        return [await self._next_frame() for _ in range(greeting_frames)]

    def close(self) -> None:
        self._supervisor.send(Close(SLOT, self._epoch))

    async def transcript(self) -> list[TranscriptMessage]:
        """Close the call; return what the caller said."""
        self.close()
        messages = [await self._pipeline.next_heard()]
        while not isinstance(messages[-1], TranscriptEnd):
            messages.append(await self._pipeline.next_heard())
        return messages

    def __call__(self, frame: Frame) -> Frame:
        return asyncio.run_coroutine_threadsafe(self._round(frame), self._loop).result()

    async def _round(self, frame: Frame) -> Frame:
        self._frames += 1
        if self._frames % IN_STEP == 0:
            await caught_up(self._supervisor, self._frames - IN_STEP)
        self._supervisor.send(Frame(SLOT, self._epoch, frame.seq, frame.pcm))
        return await self._next_frame()

    async def _next_frame(self) -> Frame:
        while True:
            message = await self._pipeline.next_message()
            assert not isinstance(message, Failed), message
            if isinstance(message, Frame) and message.epoch == self._epoch:
                return message


@asynccontextmanager
async def real_workers(
    checkpoint: str, codec: CodecKind, cache: Path, greeting_frames: int = 0, lora: str = "", transcribe: str = "off"
) -> AsyncIterator[RealWorkers]:
    """Run a codec and an engine of their own for a while, and if asked a transcriber."""
    model = {"moshi_checkpoint": checkpoint, "moshi_lora": lora, "cache_dir": cache, "codec": codec}
    settings = read_settings(**model, greeting_frames=greeting_frames, transcribe=transcribe)
    async with running(worker_config(settings)) as pipeline:
        yield RealWorkers(pipeline)
