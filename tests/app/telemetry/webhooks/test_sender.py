import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import ClientTimeout, web
from aiohttp.test_utils import TestServer

from app.telemetry.webhooks.actions import Action, SayAction
from app.telemetry.webhooks.queue import WebhookEvent
from app.telemetry.webhooks.sender import WebhookSender
from app.telemetry.webhooks.signature import sign
from app.twilio.events import CallSid
from tests.processes.pipeline import PATIENCE_S
from tests.waiting import until

SECRET = "sixteen letters."
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """Answers with `answers` in order, then with 204; keeps what it has received."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.received: list[tuple[dict[str, str], bytes]] = []
        self._changed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in request.headers if name.lower().startswith("webhook")}
        self.received.append((headers, await request.read()))
        self._changed.set()
        return await self._answers.pop(0)(request) if self._answers else web.Response(status=204)

    async def wait(self, events: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.received) < events:
                self._changed.clear()
                await self._changed.wait()


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return respond


async def never(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


@contextlib.asynccontextmanager
async def sending(
    receiver: Receiver, timeout_s: float = PATIENCE_S
) -> AsyncIterator[tuple[WebhookSender, list[Action]]]:
    app, actions = web.Application(), list[Action]()
    app.router.add_post("/hook", receiver.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/hook"))
        sender = WebhookSender(url, SECRET, lambda _, action: actions.append(action), ClientTimeout(total=timeout_s))
        running = asyncio.create_task(sender.run())
        try:
            yield sender, actions
        finally:
            running.cancel()
            await asyncio.wait({running})


def event(name: str = "a", call: str = "CA1") -> WebhookEvent:
    return WebhookEvent(name, CallSid(call), b'{"type": "caller.said"}', asks=True)


async def test_events_are_signed_and_the_answer_may_act() -> None:
    receiver = Receiver(answer(body=b'{"say": "Hello"}'))
    async with sending(receiver) as (sender, actions):
        sender.add(event())
        await until(lambda: actions)
    [(headers, body)] = receiver.received
    assert headers == sign(SECRET, "a", int(headers["webhook-timestamp"]), body)
    assert actions == [SayAction("Hello")]


async def test_an_event_is_sent_again_when_the_receiver_fails() -> None:
    receiver = Receiver(answer(503))
    async with sending(receiver) as (sender, _):
        sender.add(event())
        await until(lambda: sender.sent == 1)
    assert [headers["webhook-id"] for headers, _ in receiver.received] == ["a", "a"]


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (answer(302, Location="/elsewhere"), "HTTP 302"),
        (answer(404), "HTTP 404"),
        (answer(503), "HTTP 503"),
        (never, "no answer in time"),
    ],
    ids=["redirect", "not found", "unavailable", "silent"],
)
async def test_a_fault_is_one_line_and_holds_up_no_other_call(
    faulty: Answer, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver(faulty)
    with caplog.at_level(logging.WARNING):
        async with sending(receiver, 1.0 if faulty is never else PATIENCE_S) as (sender, _):
            sender.add(event("a", "CA1"))
            await receiver.wait(1)
            sender.add(event("b", "CA2"))
            await until(lambda: sender.sent >= 1 and caplog.messages)
    assert len([line for line in caplog.messages if reason in line]) == 1


@pytest.mark.parametrize("body", [b"garbage", b"x" * 10_000_000, b'{"say": 4}'], ids=["garbage", "10 MB", "wrong"])
async def test_a_useless_answer_is_one_line(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with sending(Receiver(answer(body=body))) as (sender, actions):
            sender.add(event())
            await until(lambda: caplog.messages)
    assert len(caplog.messages) == 1
    assert (sender.sent, actions) == (1, [])


async def test_what_waits_at_the_stop_is_still_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.telemetry.webhooks.sender.STOP_WITHIN_S", PATIENCE_S)
    receiver = Receiver()
    async with sending(receiver) as (sender, _):
        for name in "abc":
            sender.add(event(name))
        await receiver.wait(1)
    assert [headers["webhook-id"] for headers, _ in receiver.received] == ["a", "b", "c"]


async def test_an_error_of_ours_is_logged_and_the_next_event_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    def fail(call_sid: CallSid, action: Action) -> None:
        raise RuntimeError

    receiver = Receiver(answer(body=b'{"hangup": true}'))
    async with sending(receiver) as (sender, _):
        sender._act = fail
        sender.add(event("a"))
        sender.add(event("b"))
        await until(lambda: sender.sent == 2)
    assert "internal error" in caplog.text
