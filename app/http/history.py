"""`/api/history`: the call log, for those who run the service.

Each question is asked in a thread of its own: an answer takes a while to put together, and a database that does not
answer keeps nobody waiting but who asked.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response

from app.http.operator_auth import OperatorAuth
from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import CallNotFound, Database
from app.telemetry.call_log.engine import CallLogError
from app.telemetry.call_log.tables import call_json, whole_call_json

AT_ONCE = 3
"""Questions that are asked at the same time; more are turned away."""
MOST_CALLS = 500
LONGEST_SID = 64

Question = Callable[[Database], Any]


class History:
    """Asks the call log at an address, None if no calls are kept."""

    def __init__(self, address: Address | None) -> None:
        self._address = address
        self._asking = 0

    async def recent(self, limit: int) -> bytes:
        """Return the last calls as JSON, the newest first. Raises HTTPException 404, 503."""
        return await self._ask(lambda database: [call_json(call) for call in database.recent(limit)])

    async def call(self, sid: str) -> bytes:
        """Return one call as JSON, with transcript and events. Raises HTTPException 404, 503."""
        return await self._ask(lambda database: whole_call_json(database.find(sid)))

    async def _ask(self, question: Question) -> bytes:
        if self._address is None:
            raise HTTPException(404, "no calls are kept: DATABASE_URL is off")
        if self._address.file and not self._address.file.exists():
            raise HTTPException(503, f"the call log does not answer: there is no {self._address}")
        if self._asking >= AT_ONCE:
            raise HTTPException(503, "the call log is being asked already; try again", {"Retry-After": "2"})
        self._asking += 1
        try:
            return await _in_thread(self._address, question)
        except CallNotFound as error:
            raise HTTPException(404, str(error)) from error
        except CallLogError as error:
            raise HTTPException(503, f"the call log does not answer: {error}") from error
        finally:
            self._asking -= 1


async def _in_thread(address: Address, question: Question) -> bytes:
    """Ask in a thread that the end of the service does not wait for; whatever the question raises is raised here."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def tell(result: bytes | BaseException) -> None:
        if answer.done():  # nobody waits any more
            return
        if isinstance(result, bytes):
            answer.set_result(result)
        else:
            answer.set_exception(result)

    def run() -> None:
        try:
            result: bytes | BaseException = json.dumps(question(Database(address))).encode()
        except BaseException as error:  # the root of this thread: it is raised where it is waited for
            result = error
        with contextlib.suppress(RuntimeError):  # the service has stopped
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=run, name="history", daemon=True).start()
    return await answer


def build_history_router(operators: OperatorAuth, history: History) -> APIRouter:
    """Return the routes by which operators read the call log."""
    router = APIRouter(dependencies=[Depends(operators.require)])

    @router.get("/api/history")
    async def recent(limit: Annotated[int, Query(ge=1, le=MOST_CALLS)] = 50) -> Response:
        return Response(await history.recent(limit), media_type="application/json")

    @router.get("/api/history/{sid}")
    async def call(sid: str) -> Response:
        if not sid.isalnum() or len(sid) > LONGEST_SID:
            raise HTTPException(404, "no call has such a SID")
        return Response(await history.call(sid), media_type="application/json")

    return router
