"""Recordings for operators: the audio and its waveform. Files are read off the event loop."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, HTTPException, Query, Request, Response
from starlette.requests import HTTPConnection
from starlette.responses import FileResponse, StreamingResponse

from app.audio import mulaw
from app.telemetry.recording.audio_files import AudioFileError
from app.telemetry.recording.store import FLAC, RecordingStore
from app.telemetry.recording.waveform import read_waveform

MAX_BUCKETS = 10_000
CHUNK_BYTES = 1 << 16
SILENCE = bytes([mulaw.SILENCE])


def build_recording_router(folder: Path | None, require: Callable[[HTTPConnection], None]) -> APIRouter:
    """Return the routes over the recordings in `folder`; `require` lets operators in and nobody else."""
    router = APIRouter()
    one_at_a_time = asyncio.Semaphore(1)
    store = RecordingStore(folder) if folder else None

    async def find(call_sid: str, name: str) -> Path:
        path = await asyncio.to_thread(store.audio_of, call_sid, name) if store else None
        if path is None:
            raise HTTPException(404, "no recording of such a call")
        return path

    @router.get("/api/calls/{call_sid}/recording")
    async def recording(request: Request, call_sid: str, name: str = "") -> Response:
        require(request)
        try:
            return await asyncio.to_thread(_response, await find(call_sid, name))
        except FileNotFoundError:  # it has just become a FLAC file
            return await asyncio.to_thread(_response, await find(call_sid, name))

    @router.get("/api/calls/{call_sid}/waveform")
    async def waveform(
        request: Request, call_sid: str, name: str = "", buckets: Annotated[int, Query(ge=1, le=MAX_BUCKETS)] = 1_000
    ) -> dict[str, object]:
        require(request)
        path = await find(call_sid, name)
        async with one_at_a_time:
            try:
                found = await asyncio.to_thread(read_waveform, path, buckets)
            except (AudioFileError, OSError) as error:
                raise HTTPException(404, "the recording cannot be read now") from error
        return {"call_sid": call_sid, "live": path.suffix != FLAC, **found.as_json()}

    return router


def _response(path: Path) -> Response:
    """Return a finished recording, of which a browser may ask for parts, or as much as there is of one that is not."""
    if path.suffix == FLAC:
        return FileResponse(path, media_type="audio/flac", stat_result=path.stat())
    file = path.open("rb")
    size = os.fstat(file.fileno()).st_size
    return StreamingResponse(_beginning(file, size), media_type="audio/wav", headers={"Content-Length": str(size)})


def _beginning(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield so many bytes of a file. It may become shorter when the call ends: then silence follows."""
    with file:
        while size > 0:
            chunk = file.read(min(CHUNK_BYTES, size)) or SILENCE * min(CHUNK_BYTES, size)
            size -= len(chunk)
            yield chunk
