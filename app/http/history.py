"""`/api/history`: the call log, for operators.

Each query runs in a thread of its own, so that a slow database delays only who asked.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response

from app.http.operator_auth import OperatorAuth
from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import CallNotFound, Database
from app.telemetry.call_log.transactions import CallLogError

MAX_QUERIES = 3
"""At the same time; more are refused."""
MAX_CALLS = 500
MAX_SID = 64


class History:
    """Queries the call log at an address, None if no calls are kept. Raises HTTPException 404, 503."""

    def __init__(self, address: Address | None) -> None:
        self._address = address
        self._running = 0

    async def recent(self, limit: int) -> bytes:
        """Return the last calls as JSON, the newest first."""
        return await self._query(lambda database: [call.as_json() for call in database.recent(limit)])

    async def call(self, sid: str) -> bytes:
        """Return one call as JSON, with transcript, events and streams."""
        return await self._query(lambda database: database.find(sid).as_json(whole=True))

    async def _query(self, query: Callable[[Database], Any]) -> bytes:
        address = self._address
        if address is None:
            raise HTTPException(404, "no calls are kept: DATABASE_URL is off")
        if address.file and not address.file.exists():
            raise HTTPException(503, f"the call log does not answer: there is no {address}")
        if self._running >= MAX_QUERIES:
            raise HTTPException(503, "the call log is being asked already; try again", {"Retry-After": "2"})
        self._running += 1
        try:
            return await _in_thread(lambda: json.dumps(query(Database(address))).encode())
        except CallNotFound as error:
            raise HTTPException(404, str(error)) from error
        except CallLogError as error:
            raise HTTPException(503, f"the call log does not answer: {error}") from error
        finally:
            self._running -= 1


async def _in_thread(work: Callable[[], bytes]) -> bytes:
    """Run in a daemon thread, for which the end of the service does not wait, unlike `asyncio.to_thread`."""
    future: Future[bytes] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # the root of this thread: it is raised where it is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="history", daemon=True).start()
    return await asyncio.wrap_future(future)


def build_history_router(operators: OperatorAuth, history: History) -> APIRouter:
    """Return the routes by which operators read the call log."""
    router = APIRouter(dependencies=[Depends(operators.require)])

    @router.get("/api/history")
    async def recent(limit: Annotated[int, Query(ge=1, le=MAX_CALLS)] = 50) -> Response:
        return Response(await history.recent(limit), media_type="application/json")

    @router.get("/api/history/{sid}")
    async def call(sid: str) -> Response:
        if not sid.isalnum() or len(sid) > MAX_SID:
            raise HTTPException(404, "no call has such a SID")
        return Response(await history.call(sid), media_type="application/json")

    return router
