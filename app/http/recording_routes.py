"""Recordings for operators: the sound, and its outline. Whatever reads a file does so off the event loop."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, HTTPException, Query, Request, Response
from starlette.requests import HTTPConnection
from starlette.responses import FileResponse, StreamingResponse

from app.audio import mulaw
from app.telemetry.recording.sound import SoundError
from app.telemetry.recording.store import SOUND, RecordingStore
from app.telemetry.recording.waveform import read_waveform

MOST_BUCKETS = 10_000
PART_BYTES = 1 << 16
FLAC, WAV = "audio/flac", "audio/wav"
SILENCE = bytes([mulaw.SILENCE])


def build_recording_router(folder: Path | None, require: Callable[[HTTPConnection], None]) -> APIRouter:
    """Return the routes over the recordings in `folder`; `require` lets operators in and nobody else."""
    router = APIRouter()
    one_at_a_time = asyncio.Semaphore(1)
    store = RecordingStore(folder) if folder else None

    async def find(call_sid: str, name: str) -> Path:
        sound = await asyncio.to_thread(store.sound_of, call_sid, name) if store else None
        if sound is None:
            raise HTTPException(404, "no recording of such a call")
        return sound

    @router.get("/api/calls/{call_sid}/recording")
    async def recording(request: Request, call_sid: str, name: str = "") -> Response:
        require(request)
        try:
            return await asyncio.to_thread(_response, await find(call_sid, name))
        except FileNotFoundError:  # it was finished just then
            return await asyncio.to_thread(_response, await find(call_sid, name))

    @router.get("/api/calls/{call_sid}/waveform")
    async def waveform(
        request: Request, call_sid: str, name: str = "", buckets: Annotated[int, Query(ge=1, le=MOST_BUCKETS)] = 1_000
    ) -> dict[str, object]:
        require(request)
        sound = await find(call_sid, name)
        async with one_at_a_time:
            try:
                outline = await asyncio.to_thread(read_waveform, sound, buckets)
            except (SoundError, OSError) as error:
                raise HTTPException(404, "the recording cannot be read now") from error
        return {"call_sid": call_sid, "live": sound.suffix != SOUND, **outline.as_json()}

    return router


def _response(sound: Path) -> Response:
    """Return a finished recording, of which a browser may ask for parts, or as much as there is of one that is not."""
    if sound.suffix == SOUND:
        return FileResponse(sound, media_type=FLAC, stat_result=sound.stat())
    tape = sound.open("rb")
    size = os.fstat(tape.fileno()).st_size
    return StreamingResponse(_beginning(tape, size), media_type=WAV, headers={"Content-Length": str(size)})


def _beginning(tape: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield so many bytes of a tape; it may become shorter when the call ends, then silence follows."""
    with tape:
        while size > 0:
            part = tape.read(min(PART_BYTES, size)) or SILENCE * min(PART_BYTES, size)
            size -= len(part)
            yield part
