"""The routes without a server or workers: what is refused, how often the reason is told, and with which headers."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request
from starlette.types import Message

from app.http.headers import SAFE, SafeHeaders
from app.http.rate_limit import RateLimiter, RefusalReason
from app.http.twilio_routes import Webhooks
from app.server.service import Service
from app.twilio.public_address import PublicAddress
from app.twilio.signature import sign
from tests.service.front import Front, front_settings
from tests.service.phone import PUBLIC, TOKEN, form, new_call_sid

OPERATOR = "a-long-operator-token"
BEARER = {"Authorization": f"Bearer {OPERATOR}"}
LIMIT = 3
LOCAL = "http://127.0.0.1:5001"


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A client at 203.0.113.5 of a service."""
    service = Service(front_settings(operator_token=OPERATOR, refusals_per_minute=LIMIT), lambda _: None)
    transport = httpx.ASGITransport(SafeHeaders(service.app), client=("203.0.113.5", 1))
    async with httpx.AsyncClient(transport=transport, base_url=PUBLIC) as http:
        yield http, service


async def voice(http: httpx.AsyncClient, token: str | None) -> int:
    fields = form(new_call_sid())
    signature = {} if token is None else {"X-Twilio-Signature": sign(token, f"{PUBLIC}/twilio/voice", fields.items())}
    return (await http.post("/twilio/voice", data=fields, headers=signature)).status_code


@pytest.mark.parametrize("token", [None, "another token"], ids=["unsigned", "wrongly signed"])
async def test_after_the_limit_no_reason_is_told_and_what_twilio_signed_is_never_limited(
    token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with client() as (http, _):
        with caplog.at_level(logging.WARNING):
            assert [await voice(http, token) for _ in range(LIMIT + 5)] == [403] * LIMIT + [429] * 5
        assert len(caplog.records) == LIMIT + 1
        assert [await voice(http, TOKEN) for _ in range(LIMIT + 5)] == [200] * (LIMIT + 5)


async def operator(http: httpx.AsyncClient, token: str) -> int:
    return (await http.get("/api/calls", headers={"Authorization": f"Bearer {token}"})).status_code


async def test_guesses_of_the_operator_token_are_limited_and_the_operator_is_not() -> None:
    async with client() as (http, _):
        assert [await operator(http, "a-guess") for _ in range(LIMIT + 2)] == [403] * LIMIT + [429] * 2
        assert await operator(http, OPERATOR) == 200


async def test_a_drain_is_for_operators_and_takes_no_call_from_then_on() -> None:
    async with client() as (http, service):
        service.manager.start_accepting(1, 0.0)
        assert (await http.post("/api/drain")).status_code == 403
        assert not service.manager.draining
        assert (await http.post("/api/drain?seconds=-1", headers=BEARER)).status_code == 422
        answer = await http.post("/api/drain?seconds=60", headers=BEARER)
        assert (answer.status_code, answer.json()) == (202, {"calls": 0, "seconds": 60})
        assert service.manager.draining
        assert (await http.get("/readyz")).json()["draining"] is True


async def test_a_form_that_is_too_large_is_not_read_to_its_end() -> None:
    read = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1_000):
            read += 1
            yield b"x" * 10_000

    async with client() as (http, _):
        answer = await http.post("/twilio/voice", content=flood(), headers={"X-Twilio-Signature": "x"})
    assert answer.status_code == 413
    assert read < 20


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_form_that_does_not_arrive_in_time_is_refused_and_counted(leaves: bool) -> None:
    async def receive() -> Message:
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    limiter = RateLimiter(9)
    webhooks = Webhooks(PublicAddress(front_settings()), "", limiter, form_within_s=30.0 if leaves else 0.0)
    scope = {"type": "http", "method": "POST", "path": "/twilio/voice", "query_string": b"", "client": ("127.0.0.1", 1)}
    with pytest.raises(HTTPException) as refused:
        await webhooks.read(Request({**scope, "headers": [(b"x-twilio-signature", b"x")]}, receive))
    assert (refused.value.status_code, refused.value.headers) == (408, {"Connection": "close"})
    assert limiter.counts[RefusalReason.TOO_SLOW] == 1


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/nowhere", 404), ("/twilio/voice", 405)])
async def test_every_answer_has_the_security_headers(path: str, status: int) -> None:
    async with client() as (http, _):
        answer = await http.get(path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in SAFE} == SAFE


async def test_an_internal_error_has_the_security_headers() -> None:
    app = FastAPI()
    app.get("/")(lambda: 1 / 0)
    transport = httpx.ASGITransport(SafeHeaders(app), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as http:
        answer = await http.get("/")
    assert (answer.status_code, {name: answer.headers[name] for name in SAFE}) == (500, SAFE)


@pytest.mark.parametrize("path", ["/twilio/selftest", "/twilio/nothing", "/api/live"])
async def test_a_denied_upgrade_has_the_security_headers(path: str) -> None:
    dialled = await Front().dial(path, None)
    assert not dialled.accepted
    assert dialled.headers.items() >= {name.lower(): value for name, value in SAFE.items()}.items()
