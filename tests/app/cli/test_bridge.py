"""What `make-call` learns of the bridge before and after a call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.cli.bridge import NotReady, find_bridge
from app.config import Settings, SettingsError, read_settings
from app.twilio.events import CallSid


@asynccontextmanager
async def bridge(
    ready: int = 200, alive: int = 200, told: object = None, record: str | None = None
) -> AsyncIterator[Settings]:
    """Serve these answers; both inside and outside are this machine. `told` is what it says of its address.

    `record` is the JSON of the call CA1."""

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(status=ready)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(status=alive)

    async def public(_: web.Request) -> web.Response:
        return web.Response(status=404) if told is None else web.json_response(told)

    async def call(_: web.Request) -> web.Response:
        if record is None:
            return web.Response(status=404)
        return web.Response(text=record, content_type="application/json")

    application = web.Application()
    application.add_routes(
        [
            web.get("/readyz", readyz),
            web.get("/{prefix:.*}healthz", healthz),
            web.get("/api/public", public),
            web.get("/api/calls/CA1", call),
        ]
    )
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield read_settings(port=runner.addresses[0][1], twilio_api_url="http://127.0.0.1:1")
    finally:
        await runner.cleanup()


async def test_a_bridge_that_is_ready_and_can_be_reached_may_call() -> None:
    async with bridge() as settings:
        assert (await find_bridge(settings)).base_url == settings.server.base_url


async def test_a_bridge_knows_best_where_it_is_reached() -> None:
    async with bridge() as elsewhere, bridge(told={"base_url": f"{elsewhere.server.base_url}/tunnel"}) as settings:
        assert (await find_bridge(settings)).base_url == f"{elsewhere.server.base_url}/tunnel"


@pytest.mark.parametrize("told", [[], {}, {"base_url": 7}, "…"])
async def test_a_bridge_that_does_not_say_is_taken_to_be_at_its_public_url(told: object) -> None:
    async with bridge(told=told) as settings:
        assert (await find_bridge(settings)).base_url == settings.server.base_url


@pytest.mark.parametrize(
    ("ready", "alive", "named"),
    [(503, 200, "no call now"), (404, 200, "no bridge at .*404"), (200, 530, "PUBLIC_URL=.*530")],
)
async def test_a_bridge_that_is_not_is_reported_in_one_line(ready: int, alive: int, named: str) -> None:
    async with bridge(ready, alive) as settings:
        with pytest.raises(NotReady, match=named) as caught:
            await find_bridge(settings)
    assert "\n" not in str(caught.value)


async def test_a_bridge_that_is_not_there_is_reported_and_so_is_a_tunnel() -> None:
    async with bridge() as settings:
        outside = settings.replaced(public_url="http://127.0.0.1:1")
        with pytest.raises(NotReady, match="is the tunnel up"):
            await find_bridge(outside)
    with pytest.raises(NotReady, match="moshi-bridge serve"):
        await find_bridge(settings)


async def test_twilio_itself_cannot_reach_this_machine_by_its_loopback_address() -> None:
    async with bridge() as settings:
        with pytest.raises(NotReady, match="PUBLIC_URL: Twilio cannot reach http://127"):
            await find_bridge(settings.replaced(twilio_api_url=""))


@pytest.mark.parametrize(
    ("record", "refused"),
    [
        ('{"refused": "busy", "end": null}', "busy"),
        ('{"end": "caller hung up"}', ""),
        ('{"refused": ""}', ""),
        ('{"refused": null}', ""),
        ("[]", ""),
        ("", ""),
        ("<html/>", ""),
        (None, ""),
    ],
)
async def test_a_bridge_reports_why_it_did_not_take_a_call(record: str | None, refused: str) -> None:
    async with bridge(record=record) as settings:
        found = await find_bridge(settings)
        assert await found.refusal(CallSid("CA1")) == refused
    assert await found.refusal(CallSid("CA1")) == "", "it is gone"


async def test_a_password_in_the_public_url_is_not_shown() -> None:
    async with bridge() as settings:
        outside = settings.replaced(public_url="http://me:secret@127.0.0.1:1")
        with pytest.raises(NotReady, match="is the tunnel up") as caught:
            await find_bridge(outside)
    assert "secret" not in str(caught.value)


async def test_a_host_that_is_none_is_reported() -> None:
    with pytest.raises(SettingsError, match="HOST=x86_64-conda-linux-gnu is no address"):
        await find_bridge(read_settings(host="x86_64-conda-linux-gnu"))
