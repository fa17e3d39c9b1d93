import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.config import read_settings
from app.http.history_routes import MAX_QUERIES, History, build_history_router
from app.http.operator_auth import OperatorAuth
from app.http.rate_limit import RateLimiter
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.database import Database
from tests.app.telemetry.call_log.postgres import PostgresServer, postgres
from tests.app.telemetry.call_log.records import ANN, BOB, entry
from tests.processes.pipeline import PATIENCE_S


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres() as server:
        yield server


def address(file: Path) -> Address:
    found = find_address(read_settings(database_url=f"sqlite:///{file}"))
    assert found is not None
    return found


def kept(file: Path) -> Address:
    """Return a call log that has two calls."""
    database = Database(address(file))
    database.migrate()
    for call_sid in (ANN, BOB):
        database.write(entry(call_sid))
    return address(file)


def asking(where: Address | None, host: str = "127.0.0.1") -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(build_history_router(OperatorAuth("", RateLimiter(9)), History(where)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


async def test_the_last_calls_are_told_without_a_number_in_full(tmp_path: Path) -> None:
    async with asking(kept(tmp_path / "calls.db")) as http:
        answer = await http.get("/api/history")
        one = await http.get("/api/history?limit=1")
    calls: list[dict[str, Any]] = answer.json()
    assert {call["call_sid"] for call in calls} == {ANN, BOB}
    assert calls[0]["caller_masked"] == "…0001"
    assert "+1555" not in answer.text
    assert len(one.json()) == 1


async def test_one_call_is_told_with_what_was_said_and_what_happened(tmp_path: Path) -> None:
    async with asking(kept(tmp_path / "calls.db")) as http:
        answer = await http.get(f"/api/history/{ANN}")
    assert [piece["text"] for piece in answer.json()["transcript"]] == ["Hel", "lo."]
    assert [event["kind"] for event in answer.json()["events"]][-1] == "ended"
    assert "+1555" not in answer.text


@pytest.mark.parametrize("sid", ["CAnobody", "CA%25", "x" * 100, "a'b"])
async def test_a_call_that_is_not_kept_is_not_found(tmp_path: Path, sid: str) -> None:
    async with asking(kept(tmp_path / "calls.db")) as http:
        assert (await http.get(f"/api/history/{sid}")).status_code == 404


async def test_without_a_call_log_the_answer_says_so() -> None:
    async with asking(None) as http:
        answer = await http.get("/api/history")
    assert (answer.status_code, answer.json()["detail"]) == (404, "no calls are kept: DATABASE_URL is off")


async def test_a_database_that_is_away_is_told_and_none_is_made(tmp_path: Path) -> None:
    async with asking(address(tmp_path / "calls.db")) as http:
        answer = await http.get("/api/history")
    assert answer.status_code == 503
    assert "does not answer" in answer.json()["detail"]
    assert not (tmp_path / "calls.db").exists()


async def test_a_file_that_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "calls.db").write_text("this is no database, " * 100)
    async with asking(address(tmp_path / "calls.db")) as http:
        answer = await http.get("/api/history")
    assert answer.status_code == 503
    assert "\n" not in answer.json()["detail"]


async def test_a_server_that_is_away_is_told() -> None:
    where = find_address(read_settings(database_url="postgresql://user:secret@127.0.0.1:1/calls"))
    async with asking(where) as http:
        answer = await http.get("/api/history")
    assert answer.status_code == 503
    assert "secret" not in answer.text


@pytest.mark.slow
async def test_a_server_that_does_not_give_what_its_address_asks_for_is_told_in_one_line(
    server: PostgresServer,
) -> None:
    where = find_address(read_settings(database_url=f"{server.new_database()}?sslmode=require&channel_binding=require"))
    async with asking(where) as http:
        answer = await http.get("/api/history")
    assert answer.status_code == 503
    assert "SSL" in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x"])
async def test_no_more_is_asked_for_than_can_be_told(tmp_path: Path, query: str) -> None:
    async with asking(address(tmp_path / "calls.db")) as http:
        assert (await http.get(f"/api/history?{query}")).status_code == 422


@pytest.mark.parametrize("path", ["/api/history", f"/api/history/{ANN}"])
async def test_it_is_for_operators_only(tmp_path: Path, path: str) -> None:
    async with asking(kept(tmp_path / "calls.db"), "phone.example.com") as http:
        assert (await http.get(path)).status_code == 403


async def test_a_question_that_takes_long_holds_up_nobody_and_too_many_are_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, asked = threading.Event(), threading.Semaphore(0)

    def slow(self: Database, limit: int) -> list[object]:
        asked.release()
        released.wait(PATIENCE_S)
        return []

    monkeypatch.setattr(Database, "recent", slow)
    async with asking(kept(tmp_path / "calls.db")) as http:
        waiting = [asyncio.create_task(http.get("/api/history")) for _ in range(MAX_QUERIES)]
        for _ in waiting:
            assert await asyncio.to_thread(asked.acquire, timeout=PATIENCE_S)
        assert (await http.get("/api/history")).status_code == 503
        assert (await http.get(f"/api/history/{ANN}")).status_code == 503
        released.set()
        assert [(await task).status_code for task in waiting] == [200] * MAX_QUERIES
        assert (await http.get(f"/api/history/{ANN}")).status_code == 200
