"""What `make-call` learns of the bridge before and after a call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.cli.bridge import NotReady, find_bridge, refusal, require_persona
from app.config import Settings, SettingsError, read_settings
from app.twilio.events import CallSid


@asynccontextmanager
async def bridge(
    ready: int = 200, alive: int = 200, told: object = None, record: str | None = None
) -> AsyncIterator[Settings]:
    """Serve these answers; `told` is what it says of its address, `record` the JSON of the call CA1."""
    answers = {
        "readyz": web.Response(status=ready),
        "public": web.Response(status=404) if told is None else web.json_response(told),
        "CA1": web.Response(status=404)
        if record is None
        else web.Response(text=record, content_type="application/json"),
    }

    async def answer(request: web.Request) -> web.Response:
        return answers.get(request.path.rpartition("/")[2]) or web.Response(status=alive)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with TestServer(application) as server:
        yield read_settings(port=server.port, twilio_api_url="http://127.0.0.1:1")


@pytest.mark.parametrize("told", [None, [], {}, {"base_url": 7}, "…"])
async def test_a_bridge_that_does_not_say_is_taken_to_be_at_its_public_url(told: object) -> None:
    async with bridge(told=told) as settings:
        assert await find_bridge(settings) == settings.server.base_url


async def test_a_bridge_knows_best_where_it_is_reached() -> None:
    async with bridge() as elsewhere, bridge(told={"base_url": f"{elsewhere.server.base_url}/tunnel"}) as settings:
        assert await find_bridge(settings) == f"{elsewhere.server.base_url}/tunnel"


@pytest.mark.parametrize(
    ("ready", "alive", "changes", "named"),
    [
        (503, 200, {}, "no call now"),
        (404, 200, {}, "no bridge at .*404"),
        (200, 530, {}, "PUBLIC_URL=.*530"),
        (200, 200, {"public_url": "http://me:secret@127.0.0.1:1"}, "is the tunnel up"),
        (200, 200, {"twilio_api_url": ""}, "PUBLIC_URL: Twilio cannot reach http://127"),
        (200, 200, {"port": 1}, "moshi-bridge serve"),
    ],
    ids=["full", "another service", "tunnel", "nothing there", "loopback", "no bridge"],
)
async def test_a_bridge_that_is_not_ready_is_reported_in_one_line(
    ready: int, alive: int, changes: dict[str, object], named: str
) -> None:
    async with bridge(ready, alive) as settings:
        with pytest.raises(NotReady, match=named) as caught:
            await find_bridge(settings.replaced(**changes))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ('{"refused": "busy", "end": null}', "busy"),
        *((record, "") for record in ('{"end": "caller hung up"}', '{"refused": null}', "[]", "", "<html/>", None)),
    ],
)
async def test_a_bridge_reports_why_it_did_not_take_a_call(record: str | None, why: str) -> None:
    async with bridge(record=record) as settings:
        assert await refusal(settings, CallSid("CA1")) == why
    assert await refusal(settings, CallSid("CA1")) == "", "it is gone"


async def test_a_host_that_is_none_is_reported() -> None:
    with pytest.raises(SettingsError, match="HOST=x86_64-conda-linux-gnu is no address"):
        await find_bridge(read_settings(host="x86_64-conda-linux-gnu"))


async def test_a_bridge_that_does_not_say_its_personas_gets_no_call_for_one() -> None:
    async with bridge(alive=404) as settings:
        await require_persona(settings, "")
        with pytest.raises(NotReady, match=r"--persona ada: .*404"):
            await require_persona(settings, "ada")
