import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.config import read_settings
from app.http.history_routes import MAX_QUERIES, build_history_router
from app.http.operator_auth import OperatorAuth
from app.http.rate_limit import RateLimiter
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.database import Database
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.postgres import PostgresServer, postgres
from tests.app.telemetry.call_log.records import ANN, entry
from tests.processes.pipeline import PATIENCE_S

CHAT = CallSid("chat-" + "c" * 32)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def two_calls(tmp_path_factory: pytest.TempPathFactory) -> Address:
    address = address_of(f"sqlite:///{tmp_path_factory.mktemp('calls')}/calls.db")
    database = Database(address)
    database.migrate()
    for call_sid in (ANN, CHAT):
        database.write(entry(call_sid))
    return address


def address_of(url: str) -> Address:
    found = find_address(read_settings(database_url=url))
    assert found is not None
    return found


def client(address: Address | None) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(build_history_router(OperatorAuth("", RateLimiter(9)), address))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


async def test_calls_are_listed_and_shown_without_a_number_in_full(two_calls: Address) -> None:
    async with client(two_calls) as http:
        every, last = await http.get("/api/history"), await http.get("/api/history?limit=1")
        one = await http.get(f"/api/history/{ANN}")
        assert (await http.get(f"/api/history/{CHAT}")).json()["call_sid"] == CHAT
    assert {call["call_sid"] for call in every.json()} == {ANN, CHAT}
    assert every.json()[0]["caller_masked"] == "…0001"
    assert len(last.json()) == 1
    assert [word["text"] for word in one.json()["transcript"]] == ["Hello.", "Hi"]
    assert [event["kind"] for event in one.json()["events"]][-1] == "ended"
    assert "+1555" not in every.text + one.text


async def test_a_transcript_is_searched_and_saved_as_webvtt(two_calls: Address) -> None:
    async with client(two_calls) as http:
        found = (await http.get("/api/history/search", params={"q": "HELLO", "limit": "1"})).json()
        vtt = await http.get(f"/api/history/{ANN}/transcript.vtt")
    assert [(one["text"], one["speaker"], one["caller_masked"]) for one in found] == [("Hello.", "moshi", "…0001")]
    assert (vtt.headers["content-type"].partition(";")[0], "<v Caller>Hi" in vtt.text) == ("text/vtt", True)
    assert vtt.headers["content-disposition"] == f'attachment; filename="{ANN}.vtt"'


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *((f"/{sid}/transcript.vtt", 404) for sid in ("CAnobody", "CA%25", 'a"b')),
        *((f"/search{query}", 422) for query in ("", f"?q={'x' * 201}", "?q=a&limit=0")),
        *((f"/{sid}", 404) for sid in ("CAnobody", "CA%25", "x" * 100, "a'b")),
        *((f"?limit={limit}", 422) for limit in ("0", "501", "x")),
    ],
)
async def test_an_unknown_call_and_a_wrong_limit_are_refused(two_calls: Address, path: str, status: int) -> None:
    async with client(two_calls) as http:
        assert (await http.get(f"/api/history{path}")).status_code == status


async def test_without_a_call_log_the_answer_says_so() -> None:
    async with client(None) as http:
        answer = await http.get("/api/history")
    assert (answer.status_code, answer.json()["detail"]) == (404, "no calls are kept: DATABASE_URL is off")


async def unavailable(url: str) -> str:
    async with client(address_of(url)) as http:
        answer = await http.get("/api/history")
    detail: str = answer.json()["detail"]
    assert answer.status_code == 503
    assert "does not answer" in detail
    assert "\n" not in detail
    return detail


async def test_a_database_that_is_not_there_or_none_is_an_error_in_one_line(tmp_path: Path) -> None:
    await unavailable(f"sqlite:///{tmp_path}/calls.db")
    assert not (tmp_path / "calls.db").exists()
    (tmp_path / "calls.db").write_text("this is no database, " * 100)
    await unavailable(f"sqlite:///{tmp_path}/calls.db")
    assert "secret" not in await unavailable("postgresql://user:secret@127.0.0.1:1/calls")


@pytest.mark.slow
async def test_a_server_that_lacks_what_its_address_asks_for_is_an_error_in_one_line(server: PostgresServer) -> None:
    assert "SSL" in await unavailable(f"{server.new_database()}?sslmode=require&channel_binding=require")


async def test_a_slow_query_blocks_nothing_and_too_many_are_refused(
    two_calls: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, asked = threading.Event(), threading.Semaphore(0)

    def slow(self: Database, limit: int) -> list[object]:
        asked.release()
        released.wait(PATIENCE_S)
        return []

    monkeypatch.setattr(Database, "recent", slow)
    async with client(two_calls) as http:
        waiting = [asyncio.create_task(http.get("/api/history")) for _ in range(MAX_QUERIES)]
        for _ in waiting:
            assert await asyncio.to_thread(asked.acquire, timeout=PATIENCE_S)
        assert (await http.get("/api/history")).status_code == 503
        assert (await http.get(f"/api/history/{ANN}")).status_code == 503
        released.set()
        assert [(await task).status_code for task in waiting] == [200] * MAX_QUERIES
        assert (await http.get(f"/api/history/{ANN}")).status_code == 200
