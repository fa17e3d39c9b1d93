"""Webhooks of the real service: the events of a call in order, actions, and receivers that are at fault."""

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.calls.end_reason import EndReason
from app.cli.service_process import free_port
from app.telemetry.webhooks.signature import sign
from app.twilio import twiml
from app.twilio.events import CallSid, DtmfPressed, Stopped
from app.twilio.rest_http import RestError
from tests.app.http.test_transfer import ANN, Carrier
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import Call, form
from tests.service.served import Served, served
from workers.messages import TurnOver

SECRET = "a-secret-of-sixteen-letters-or-more"
EXAMPLE = Path(__file__).parents[2] / "docs/examples/transfer_to_a_person.py"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """Keeps the events; answers `caller.said` by `answer`, all else with 204."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        moment = int(request.headers["webhook-timestamp"])
        assert sign(SECRET, request.headers["webhook-id"], moment, body).items() <= dict(request.headers).items()
        self.events.append(json.loads(body))
        self._changed.set()
        is_asked = self.events[-1]["type"] == "caller.said"
        return await self._answer(request) if is_asked else web.Response(status=204)

    async def until(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := [event for event in self.events if event["type"] == kind]):
                self._changed.clear()
                await self._changed.wait()
        data: dict[str, Any] = found[-1]["data"]
        return data


def answering(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    async def respond(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return respond


async def never(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


@contextlib.asynccontextmanager
async def receiving(answer: Answer, **settings: object) -> AsyncIterator[tuple[Served, Receiver, Carrier]]:
    receiver, carrier, app = Receiver(answer), Carrier(), web.Application()
    app.router.add_post("/hook", receiver.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/hook"))
        told: dict[str, Any] = {"webhook_url": url, "webhook_secret": SECRET, "transfer_to": ANN, **settings}
        async with served(rest=carrier, **told) as running:
            yield running, receiver, carrier


def hears(running: Served, call_sid: CallSid, text: str) -> None:
    """The caller says a turn, as the transcriber would tell."""
    for place, word in enumerate(text.split()):
        running.hears(call_sid, word, place * 0.3)
    reservation = running.live(call_sid).reservation
    running.service.manager.handle_transcript(TurnOver(reservation.slot, reservation.epoch, 9.0))


@contextlib.asynccontextmanager
async def calling(answer: Answer, **settings: object) -> AsyncIterator[tuple[Served, Receiver, Carrier, Call]]:
    """A call on such a service."""
    async with receiving(answer, **settings) as (running, receiver, carrier), running.phone.call() as call:
        await call.speaks(3)
        yield running, receiver, carrier, call


async def test_the_events_of_a_call_come_in_order_with_the_words_of_both() -> None:
    async with receiving(answering()) as (running, receiver, _):
        async with running.phone.call() as call:
            await call.speaks(3)
            running.says(call.call_sid, " Hello")
            hears(running, call.call_sid, "My card is 4111 1111")
            await receiver.until("caller.said")
        ended = await receiver.until("call.ended")
    kinds = [event["type"] for event in receiver.events]
    assert (kinds[0], kinds[-1], sorted(kinds[1:-1])) == ("call.started", "call.ended", ["caller.said", "moshi.said"])
    assert [event["data"]["number"] for event in receiver.events] == [1, 2, 3, 4]
    said = {event["type"]: event["data"]["text"] for event in receiver.events if "text" in event["data"]}
    assert said == {"moshi.said": "Hello", "caller.said": "My card is **** ****"}
    assert (ended["from"], ended["transfers"], len(ended["streams"])) == ("+15550100001", [], 1)


@pytest.mark.parametrize("keys", ["*", "7"])
async def test_keys_are_hidden_unless_they_may_be_logged(keys: str) -> None:
    async with calling(answering(), log_digits=keys == "7") as (_, receiver, _carrier, call):
        await call.socket.send(call.carrier.send(DtmfPressed("7")))
        assert (await receiver.until("call.key"))["digit"] == keys


async def test_an_answer_has_moshi_say_something() -> None:
    async with calling(answering(body=b'{"say": "One moment."}')) as (running, _, _carrier, call):
        hears(running, call.call_sid, "Hello?")
        await running.until("the answer to a webhook has Moshi say sentence 1")
        assert running.record(call.call_sid).sentences == 1


async def test_an_answer_hangs_up() -> None:
    async with calling(answering(body=b'{"hangup": true}')) as (running, receiver, _, call):
        hears(running, call.call_sid, "Bye!")
        assert (await receiver.until("call.ended"))["end"] == EndReason.OPERATOR


@pytest.mark.parametrize(("to", "is_allowed"), [("", True), (ANN, True), ("+19005550000", False)])
async def test_an_answer_transfers_to_whom_the_settings_allow(to: str, is_allowed: bool) -> None:
    async with calling(answering(body=json.dumps({"transfer": to}).encode())) as (running, receiver, carrier, call):
        hears(running, call.call_sid, "A person, please")
        if not is_allowed:
            await running.until("TRANSFER_ALLOWED does not allow this number")
            assert carrier.followed == []
            return
        begun = await receiver.until("call.transferred")
        assert begun["to"] == "…0009"
        [dial] = twiml.parse(carrier.followed[0][1])
        assert isinstance(dial, twiml.Dial)
        assert dial.to == ANN
        await call.socket.send(call.carrier.send(Stopped()))
        await receiver.until("call.ended")
        over = {**form(call.call_sid), "DialCallStatus": "completed", "DialCallDuration": "61"}
        for _ in range(2):
            await running.phone.post("/twilio/after-dial", over)
        wanted = {"to": "…0009", "by": begun["by"], "status": "completed", "duration_s": 61}
        assert (await receiver.until("call.transfer_ended")).items() >= wanted.items()
    assert [event["type"] for event in receiver.events].count("call.transfer_ended") == 1


async def test_a_transfer_that_the_carrier_refuses_is_over_at_once() -> None:
    async with calling(answering(body=b'{"transfer": ""}')) as (running, receiver, carrier, call):
        carrier.fault = RestError("Twilio answered with HTTP 500", status=500)
        hears(running, call.call_sid, "A person, please")
        assert (await receiver.until("call.transfer_ended"))["status"] == "Twilio answered with HTTP 500"
        assert running.record(call.call_sid).end is None
    assert "call.transferred" not in {event["type"] for event in receiver.events}


FAULTS = {
    "slow": (never, "no answer in time"),
    "garbage": (answering(body=b"\xff{"), "it is not JSON"),
    "10 MB": (answering(body=b"x" * 10_000_000), "it is larger than"),
    "redirect": (answering(307, Location="https://example.com/"), "HTTP 307"),
    "error": (answering(500), "HTTP 500"),
}
ANSWERED = ("garbage", "10 MB")
"""One line for each answer; of the other faults one when it begins."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_receiver_at_fault_leaves_the_call_as_it_is(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    answer, reason = FAULTS[fault]
    with caplog.at_level(logging.WARNING):
        async with calling(answer) as (running, _, carrier, call):
            talking = asyncio.create_task(call.speaks(10_000))
            for _ in range(3):
                hears(running, call.call_sid, "Hello?")
            for _ in range(3 if fault in ANSWERED else 1):
                await running.until(reason)
            record = running.record(call.call_sid)
            assert (record.end, [word.text for word in record.words]) == (None, ["Hello?"] * 3)
            assert not talking.done()
            talking.cancel()
    assert carrier.followed == []
    lines = [line for line in caplog.messages if reason in line]
    assert len(lines) == (3 if fault in ANSWERED else 1)


async def test_a_receiver_that_is_gone_costs_nothing_but_one_line(caplog: pytest.LogCaptureFixture) -> None:
    told: dict[str, Any] = {"webhook_url": f"http://127.0.0.1:{free_port()}/", "webhook_secret": SECRET}
    with caplog.at_level(logging.WARNING):
        async with served(**told) as running, running.phone.call() as call:
            await call.speaks(3)
            await running.until("WEBHOOK_URL does not accept events")
            running.says(call.call_sid, " Hello")
            await call.speaks(10)
            metrics = (await running.http.get("/metrics")).text
    assert len([line for line in caplog.messages if "WEBHOOK_URL" in line]) == 1
    [waiting] = [line for line in metrics.splitlines() if line.startswith("moshi_bridge_webhook_events_waiting ")]
    assert float(waiting.split()[1]) >= 1


async def test_last_words_come_before_the_end_of_the_call() -> None:
    async with receiving(answering()) as (running, receiver, _):
        async with running.phone.call() as call:
            await call.speaks(3)
            hears(running, call.call_sid, "four")  # held: it may begin a run of digits
        await receiver.until("call.ended")
    assert [event["type"] for event in receiver.events] == ["call.started", "caller.said", "call.ended"]


@contextlib.asynccontextmanager
async def example() -> AsyncIterator[str]:
    """Run docs/examples; yield its URL."""
    url = f"http://127.0.0.1:{(port := free_port())}/"
    environment = {**os.environ, "WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    errors = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(sys.executable, EXAMPLE, env=environment, stderr=errors)
    try:
        async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient() as http:
            while not await _answers(http, url):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        yield url
    finally:
        process.kill()
        await process.wait()


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        await http.get(url)
    except httpx.TransportError:
        return False
    return True


async def test_the_example_transfers_a_caller_who_asks_for_a_person() -> None:
    carrier = Carrier()
    async with example() as url:
        told: dict[str, Any] = {"webhook_url": url, "webhook_secret": SECRET, "transfer_to": ANN}
        async with served(rest=carrier, **told) as running, running.phone.call() as call:
            await call.speaks(3)
            hears(running, call.call_sid, "What are your hours?")
            hears(running, call.call_sid, "Let me talk to a HUMAN, please.")
            await running.until("the answer to a webhook has the call transferred to …0009")
            async with asyncio.timeout(PATIENCE_S):
                while not carrier.followed:  # noqa: ASYNC110 - the carrier is a list
                    await asyncio.sleep(0.01)
    assert [call_sid for call_sid, _ in carrier.followed] == [call.call_sid]


@pytest.mark.parametrize("fault", ["none", "forged", "changed", "replayed"])
async def test_the_example_takes_only_what_is_signed_and_new(fault: str) -> None:
    body = b'{"type": "caller.said", "data": {"text": "a person"}}'
    moment = int(time.time()) - (3_600 if fault == "replayed" else 0)
    secret = "another-secret-of-so-many-letters" if fault == "forged" else SECRET
    headers = sign(secret, "evt_1", moment, body)
    async with example() as url, httpx.AsyncClient() as http:
        answer = await http.post(url, content=body + b" " * (fault == "changed"), headers=headers)
    assert answer.status_code == (200 if fault == "none" else 401)
