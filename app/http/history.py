"""`/api/history`: the call log for operators, read in threads: a slow database delays nobody else."""

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response

from app.http.operator_auth import OperatorAuth
from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import CallNotFound, Database
from app.telemetry.call_log.engine import CallLogError
from app.telemetry.call_log.tables import call_json, whole_call_json

MAX_QUERIES = 3
"""At the same time; more are refused, so that threads are left for other work."""
MAX_CALLS = 500
MAX_SID_LENGTH = 64


class History:
    """Queries the call log at an address, None if no calls are kept."""

    def __init__(self, address: Address | None) -> None:
        self._address = address
        self._running = 0

    async def query(self, read: Callable[[Database], Any]) -> Response:
        """Return the answer as JSON. Raises HTTPException 404, 503."""
        if self._address is None:
            raise HTTPException(404, "no calls are kept: DATABASE_URL is off")
        if self._address.file and not self._address.file.exists():
            raise HTTPException(503, f"the call log does not answer: there is no {self._address}")
        if self._running >= MAX_QUERIES:
            raise HTTPException(503, "the call log is busy; try again", {"Retry-After": "2"})
        database = Database(self._address)
        self._running += 1
        try:
            text = await asyncio.to_thread(lambda: json.dumps(read(database)))
        except CallNotFound as error:
            raise HTTPException(404, str(error)) from error
        except CallLogError as error:
            raise HTTPException(503, f"the call log does not answer: {error}") from error
        finally:
            self._running -= 1
        return Response(text, media_type="application/json")


def build_history_router(auth: OperatorAuth, history: History) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/history", dependencies=[Depends(auth.require)])

    @router.get("")
    async def recent(limit: Annotated[int, Query(ge=1, le=MAX_CALLS)] = 50) -> Response:
        return await history.query(lambda database: [call_json(call) for call in database.recent(limit)])

    @router.get("/{sid}")
    async def call(sid: str) -> Response:
        if not sid.isalnum() or len(sid) > MAX_SID_LENGTH:
            raise HTTPException(404, "no call has such a SID")
        return await history.query(lambda database: whole_call_json(database.find(sid)))

    return router
