"""The call log and the recordings, for operators; read in threads, so that a slow disk or database delays nobody."""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from starlette.responses import FileResponse, StreamingResponse

from app.audio import mulaw
from app.http import api_schemas as api
from app.http.json_body import JSON_TYPE
from app.http.operator_auth import OperatorAuth
from app.telemetry.call_log import webvtt
from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import CallNotFound, Database
from app.telemetry.call_log.transactions import CallLogError
from app.telemetry.call_log.webvtt import write_vtt
from app.telemetry.recording.audio_files import AudioFileError, read_waveform
from app.telemetry.recording.store import FLAC, RecordingStore

MAX_QUERIES = 3
"""At the same time; more are refused, so that threads are left for other work."""
MAX_CALLS = 500
MAX_SID_LENGTH = 64
MAX_QUERY_LENGTH = 200
MAX_BUCKETS = 10_000
PART_BYTES = 1 << 16
SILENCE = bytes([mulaw.SILENCE])


def _known_form(sid: str) -> str:
    if not sid.replace("-", "").isalnum() or not sid.isascii() or len(sid) > MAX_SID_LENGTH:
        raise HTTPException(404, "no call has such a SID")
    return sid


Sid = Annotated[str, Depends(_known_form)]


class History:
    """Queries the call log at an address, None if no calls are kept."""

    def __init__(self, address: Address | None) -> None:
        self._address = address
        self._free = asyncio.Semaphore(MAX_QUERIES)

    async def query(
        self, read: Callable[[Database], Any], write: Callable[[Any], str] = json.dumps, media_type: str = JSON_TYPE
    ) -> Response:
        """Return the answer, as JSON unless `write` says otherwise. Raises HTTPException 404, 503."""
        if self._address is None:
            raise HTTPException(404, "no calls are kept: DATABASE_URL is off")
        if self._address.file and not self._address.file.exists():
            raise HTTPException(503, f"the call log does not answer: there is no {self._address}")
        if self._free.locked():
            raise HTTPException(503, "the call log is busy; try again", {"Retry-After": "2"})
        database = Database(self._address)
        try:
            async with self._free:
                text = await _in_thread(lambda: write(read(database)))
        except CallNotFound as error:
            raise HTTPException(404, str(error)) from error
        except CallLogError as error:
            raise HTTPException(503, f"the call log does not answer: {error}") from error
        return Response(text, media_type=media_type)


async def _in_thread(work: Callable[[], str]) -> str:
    """Run in a daemon thread, for which the end of the service does not wait, unlike `asyncio.to_thread`."""
    future: Future[str] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # the root of this thread: it is raised where it is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="history", daemon=True).start()
    return await asyncio.wrap_future(future)


def build_history_router(auth: OperatorAuth, address: Address | None) -> APIRouter:
    router = APIRouter(prefix="/api/history", dependencies=[Depends(auth.require)])
    history = History(address)

    @router.get("", response_model=list[api.KeptCall])
    async def recent(limit: Annotated[int, Query(ge=1, le=MAX_CALLS)] = 50) -> Response:
        return await history.query(lambda database: [call.as_json() for call in database.recent(limit)])

    @router.get("/search", response_model=list[api.FoundTurn])
    async def search(
        q: Annotated[str, Query(max_length=MAX_QUERY_LENGTH)], limit: Annotated[int, Query(ge=1, le=MAX_CALLS)] = 50
    ) -> Response:
        return await history.query(lambda database: [turn.as_json() for turn in database.search(q, limit)])

    @router.get("/{sid}", response_model=api.WholeKeptCall)
    async def call(sid: Sid) -> Response:
        return await history.query(lambda database: database.find(sid).as_json(whole=True))

    @router.get("/{sid}/transcript.vtt", responses={200: {"content": {webvtt.MEDIA_TYPE: {}}}})
    async def transcript(sid: Sid) -> Response:
        answer = await history.query(lambda database: database.find(sid), write_vtt, webvtt.MEDIA_TYPE)
        answer.headers["Content-Disposition"] = f'attachment; filename="{sid}.vtt"'
        return answer

    return router


def build_recording_router(folder: Path | None, auth: OperatorAuth) -> APIRouter:
    router = APIRouter(prefix="/api/calls/{call_sid}", dependencies=[Depends(auth.require)])
    one_at_a_time = asyncio.Semaphore(1)
    store = RecordingStore(folder) if folder else None

    async def find(call_sid: str, name: str) -> Path:
        path = await asyncio.to_thread(store.audio_of, call_sid, name) if store else None
        if path is None:
            raise HTTPException(404, "no recording of such a call")
        return path

    @router.get("/recording", responses={200: {"content": {"audio/flac": {}, "audio/wav": {}}}})
    async def recording(call_sid: str, name: str = "") -> Response:
        try:
            return await asyncio.to_thread(_response, await find(call_sid, name))
        except FileNotFoundError:  # it was finished just then
            return await asyncio.to_thread(_response, await find(call_sid, name))

    @router.get("/waveform", response_model=api.Waveform)
    async def waveform(
        call_sid: str, name: str = "", buckets: Annotated[int, Query(ge=1, le=MAX_BUCKETS)] = 1_000
    ) -> dict[str, object]:
        path = await find(call_sid, name)
        async with one_at_a_time:
            try:
                found = await asyncio.to_thread(read_waveform, path, buckets)
            except (AudioFileError, OSError) as error:
                raise HTTPException(404, "the recording cannot be read now") from error
        return {"call_sid": call_sid, "live": path.suffix != FLAC, **found}

    return router


def _response(path: Path) -> Response:
    """Return a finished recording, of which a browser may request ranges, or what there is of an unfinished one."""
    if path.suffix == FLAC:
        return FileResponse(path, media_type="audio/flac", stat_result=path.stat())
    file = path.open("rb")
    size = os.fstat(file.fileno()).st_size
    return StreamingResponse(_beginning(file, size), media_type="audio/wav", headers={"Content-Length": str(size)})


def _beginning(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield `size` bytes; a file that is cut meanwhile, because the call has ended, is filled up with silence."""
    with file:
        while size > 0:
            part = file.read(min(PART_BYTES, size)) or SILENCE * min(PART_BYTES, size)
            size -= len(part)
            yield part
