import asyncio

import pytest
from fastapi import HTTPException, Request
from starlette.types import Message

from app.http.rate_limit import RateLimiter, RefusalReason
from app.http.webhooks import Webhooks, read_body
from app.twilio.public_address import PublicAddress
from tests.service.front import front_settings


def request(receive_forever: bool = True) -> Request:
    async def receive() -> Message:
        if receive_forever:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    headers = [(b"x-twilio-signature", b"x")]
    scope = {"type": "http", "method": "POST", "path": "/twilio/voice", "query_string": b"", "headers": headers}
    return Request({**scope, "client": ("127.0.0.1", 1)}, receive)


async def test_a_form_that_does_not_arrive_in_time_is_refused_and_counted() -> None:
    settings, refusals = front_settings(), RateLimiter(9)
    webhooks = Webhooks(PublicAddress(settings), "", refusals, form_within_s=0.0)
    with pytest.raises(HTTPException) as refused:
        await webhooks.read(request())
    assert (refused.value.status_code, refused.value.headers) == (408, {"Connection": "close"})
    assert refusals.counts[RefusalReason.TOO_SLOW] == 1


async def test_a_body_is_read_no_further_than_its_limit() -> None:
    assert await read_body(request(receive_forever=False), 1_000) is None
