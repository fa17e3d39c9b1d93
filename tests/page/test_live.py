"""What the page reads and does, without a browser: the live feed, asked for and pushed, and the way to hang up."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from app.calls.end_reason import EndReason
from app.http import operator_routes
from tests.page.running import OPERATOR_TOKEN, Running
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import closing_code

pytestmark = pytest.mark.asyncio(loop_scope="module")


def looking(running: Running, host: str = "127.0.0.1", **headers: str) -> connect:
    return running.follow("/api/live", host, **headers)


async def told(socket: ClientConnection, wanted: Callable[[dict[str, Any]], object] = lambda _: True) -> dict[str, Any]:
    """Return the next snapshot, or event, of which this holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not wanted(one := json.loads(await socket.recv())):
            pass
    found: dict[str, Any] = one
    return found


async def until(socket: ClientConnection, calls: int) -> dict[str, Any]:
    """Return the next snapshot with so many calls."""
    return await told(socket, lambda snapshot: len(snapshot["calls"]) == calls)


async def test_a_call_is_told_from_beginning_to_end(running: Running) -> None:
    async with looking(running) as socket:
        assert (await told(socket))["calls"] == []
        async with running.call() as call_sid:
            (call,) = (await until(socket, 1))["calls"]
            assert (call["call_sid"], call["number"], call["persona"]) == (call_sid, "…0001", "ada")
            snapshot = await told(socket, lambda one: one["steps"] and one["calls"][0]["latency_ms"] is not None)
            assert snapshot["calls"][0]["stages_ms"].keys() == {"encode", "step", "decode"}
        await until(socket, 0)


async def test_who_asks_is_told_the_same(running: Running) -> None:
    async with running.call() as call_sid:
        running.says(call_sid, " Hello")
        for query in ("", "?first=true"):
            said: list[str] = []
            async with asyncio.timeout(PATIENCE_S):
                while not said:  # a snapshot may be some time old
                    snapshot = (await running.http.get(f"/api/live{query}")).json()
                    said = [word[1] for call in snapshot["calls"] for word in call["transcript"]["words"]]
            assert said == ["Hello"]
        course = (await running.http.get(f"/api/live/{call_sid}")).json()
        assert ([word[1] for word in course["transcript"]["words"]], course["end"]) == (["Hello"], None)
    assert (await running.http.get("/api/live/CAnobody")).status_code == 404


async def test_an_operator_hangs_up_once_what_moshi_said_is_heard(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.calls.session.DRAIN_WITHIN_S", 0.2)  # no mark comes back
    async with running.phone.call() as call:
        await call.speaks(3)
        record = running.live(call.call_sid).session.record
        answer = await running.http.post(f"/api/calls/{call.call_sid}/hangup")
        assert answer.status_code == 202
        assert await closing_code(call.socket) == 1000
    assert record.end is EndReason.OPERATOR
    assert (await running.http.post(f"/api/calls/{call.call_sid}/hangup")).status_code == 404


async def test_a_sentence_is_answered_shown_and_an_event_though_no_engine_of_a_line_test_says_it(
    running: Running,
) -> None:
    async with running.phone.call() as call:
        async with running.follow(f"/api/calls/{call.call_sid}/events") as socket:
            path = f"/api/calls/{call.call_sid}/say?wait=true"
            answer = await running.http.post(path, json={"text": "One moment, please."})
            assert (answer.status_code, answer.json()) == (200, {"id": 1, "whole": False})
            event = await told(socket, lambda one: one["event"] == "said")
            assert (event["id"], event["text"], event["whole"]) == (1, "One moment, please.", False)
        async with looking(running) as socket:
            assert (await until(socket, 1))["calls"][0]["sentences"] == {"queued": 0, "said": 0, "cut": 1}
        record = (await running.http.get(f"/api/calls/{call.call_sid}")).json()
        assert (record["counts"]["sentences_said"], record["counts"]["sentences_cut"]) == (0, 1)
        running.live(call.call_sid).end(EndReason.SHUTDOWN)
    answer = await running.http.post(path, json={"text": "Too late."})
    assert (answer.status_code, answer.json()["detail"]) == (409, "the call is over")


UNAUTHENTICATED: list[tuple[str, dict[str, str]]] = [
    ("phone.example.com", {}),
    ("127.0.0.1", {"Origin": "http://evil.example.com"}),
    ("phone.example.com", {"Authorization": "Bearer another-long-token"}),
]


@pytest.mark.parametrize(("host", "headers"), UNAUTHENTICATED)
async def test_unauthenticated_clients_see_nothing(running: Running, host: str, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await looking(running, host, **headers)
    assert refused.value.response.status_code == 403


async def test_the_token_lets_in_from_elsewhere(running: Running) -> None:
    async with looking(running, "phone.example.com", Authorization=f"Bearer {OPERATOR_TOKEN}") as socket:
        assert (await told(socket))["slots"] == 3


async def test_readers_are_limited_and_one_that_leaves_makes_room(running: Running) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(operator_routes.MAX_READERS):
            await told(await stack.enter_async_context(looking(running)))
        with pytest.raises(InvalidStatus) as refused:
            await looking(running)
        assert refused.value.response.status_code == 503
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(InvalidStatus):
                async with looking(running) as socket:
                    await told(socket)
                    break


class Stuck(WebSocket):
    """A socket whose other end takes nothing, and says nothing."""

    def __init__(self) -> None:
        self.sending = 0

    async def accept(self, *_: object) -> None:
        return

    async def receive(self) -> Any:
        await asyncio.Event().wait()

    async def send_text(self, data: str) -> None:
        self.sending += 1
        await asyncio.Event().wait()


async def test_a_reader_who_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def texts() -> AsyncIterator[str]:
        while True:
            yield "{}"

    monkeypatch.setattr(operator_routes, "SEND_WITHIN_S", 0.001)
    stuck = Stuck()
    await asyncio.wait_for(operator_routes.send_texts(stuck, texts()), PATIENCE_S)
    assert stuck.sending == 1


async def test_what_goes_wrong_in_the_making_is_not_hidden() -> None:
    async def texts() -> AsyncIterator[str]:
        raise ZeroDivisionError
        yield ""

    with pytest.raises(ZeroDivisionError):
        await operator_routes.send_texts(Stuck(), texts())
