"""The routes without a server or workers: what is refused, and how often it is told so."""

import contextlib
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from app.config import read_settings
from app.server.service import Service
from app.twilio.signature import sign
from tests.service.phone import ACCOUNT, PUBLIC, TOKEN, form, new_call_sid

OPERATOR = "a-long-operator-token"
LIMIT = 3
LOCAL = "http://127.0.0.1:5001"


@contextlib.asynccontextmanager
async def door(**settings: object) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A client at 203.0.113.5 of a service whose lines are open."""
    read = read_settings(
        engine="loopback",
        codec="loopback",
        public_url=PUBLIC,
        twilio_auth_token=TOKEN,
        twilio_account_sid=ACCOUNT,
        operator_token=OPERATOR,
        **{"refusals_per_minute": LIMIT, **settings},
    )
    service = Service(read, lambda _: None)
    transport = httpx.ASGITransport(service.app, client=("203.0.113.5", 1))
    async with httpx.AsyncClient(transport=transport, base_url=PUBLIC) as http:
        yield http, service


async def voice(http: httpx.AsyncClient, token: str | None) -> int:
    fields = form(new_call_sid())
    signature = {} if token is None else {"X-Twilio-Signature": sign(token, f"{PUBLIC}/twilio/voice", fields.items())}
    return (await http.post("/twilio/voice", data=fields, headers=signature)).status_code


@pytest.mark.parametrize("token", [None, "another token"], ids=["unsigned", "wrongly signed"])
async def test_who_is_refused_too_often_is_not_told_why_any_more(
    token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with door() as (http, _):
        with caplog.at_level(logging.WARNING):
            assert [await voice(http, token) for _ in range(LIMIT + 5)] == [403] * LIMIT + [429] * 5
    assert len(caplog.records) == LIMIT + 1


async def test_what_twilio_signed_is_never_limited() -> None:
    async with door() as (http, _):
        for _ in range(LIMIT + 5):
            await voice(http, None)
        assert [await voice(http, TOKEN) for _ in range(LIMIT + 5)] == [200] * (LIMIT + 5)


async def operator(http: httpx.AsyncClient, token: str) -> int:
    return (await http.get("/api/calls", headers={"Authorization": f"Bearer {token}"})).status_code


async def test_who_guesses_operator_tokens_is_limited_and_the_operator_is_not() -> None:
    async with door() as (http, _):
        assert [await operator(http, "a-guess") for _ in range(LIMIT + 2)] == [403] * LIMIT + [429] * 2
        assert await operator(http, OPERATOR) == 200


@pytest.mark.parametrize("path", ["/api/calls", "/api/calls/CA1", "/api/loop"])
async def test_every_operator_route_is_for_operators(path: str) -> None:
    async with door() as (http, _):
        assert (await http.get(path)).status_code == 403


async def test_a_drain_is_for_operators_and_takes_no_call_from_then_on() -> None:
    async with door() as (http, service):
        service.manager.start_accepting(1, 0.0)
        assert (await http.post("/api/drain")).status_code == 403
        assert not service.manager.draining
        bearer = {"Authorization": f"Bearer {OPERATOR}"}
        assert (await http.post("/api/drain?seconds=-1", headers=bearer)).status_code == 422
        answer = await http.post("/api/drain?seconds=60", headers=bearer)
        assert (answer.status_code, answer.json()) == (202, {"calls": 0, "seconds": 60})
        assert service.manager.draining
        assert (await http.get("/readyz")).json()["draining"] is True


async def test_another_page_in_an_operators_browser_cannot_drain() -> None:
    async with door() as (_, service):
        transport = httpx.ASGITransport(service.app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as browser:
            answer = await browser.post("/api/drain", headers={"Origin": "https://evil.example.com"})
            assert (answer.status_code, service.manager.draining) == (403, False)
            assert (await browser.post("/api/drain")).status_code == 202


async def test_what_is_too_much_for_a_form_is_not_read_to_its_end() -> None:
    read = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1_000):
            read += 1
            yield b"x" * 10_000

    async with door() as (http, _):
        answer = await http.post("/twilio/voice", content=flood(), headers={"X-Twilio-Signature": "x"})
    assert answer.status_code == 413
    assert read < 20
