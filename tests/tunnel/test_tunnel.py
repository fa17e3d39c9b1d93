"""The tunnel's keeper with the real service and a cloudflared whose public port is on this machine."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from app.config import read_settings
from app.http.selftest import probe
from app.server.cloudflared import Cloudflared, free_port, tunnel_command, tunnel_environment
from app.server.number_override import NumberManager
from app.server.tunnel import TunnelManager
from app.server.tunnel_state import TunnelTimeouts
from app.twilio.signature import sign, socket_url
from app.twilio.twiml import Connect, Reject, parse
from tests.processes.pipeline import PATIENCE_S, all_gone
from tests.service.phone import TOKEN, Call, form, new_call_sid
from tests.service.served import Served
from tests.service.served import served as run_service
from tests.tunnel.number import FakeNumber, NumberTrouble
from tests.tunnel.place import Place, install

pytestmark = pytest.mark.asyncio(loop_scope="module")

HASTY = TunnelTimeouts(first_probe_s=0.0, next_probe_s=(0.05,))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Served]:
    async with run_service(max_calls=2, tunnel=True, public_url="") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def served(running: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The service without calls and without a tunnel; one that dies is started again at once."""
    monkeypatch.setattr("app.server.tunnel.backoff_s", lambda failures: 0.0)
    running.service.public.is_open = False
    running.end_calls()
    return running


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return install(tmp_path / "bin")


@contextlib.asynccontextmanager
async def keeping(
    served: Served, place: Place, number: FakeNumber | None = None, timeouts: TunnelTimeouts = HASTY, **standin: str
) -> AsyncIterator[None]:
    """Keep a tunnel to the service until the block ends; `standin` says what goes wrong with it."""

    async def start() -> Cloudflared:
        port = free_port()
        environment = tunnel_environment(served.settings, {**place.environment, **standin})
        return await Cloudflared.start(
            tunnel_command(served.settings, place.program, port), environment, port, None, secret=""
        )

    pointed = NumberManager(number, (NumberTrouble,), served.service.self_tested.wait) if number else None
    proof = partial(probe, auth_token=TOKEN, service_name=served.service.public.service_name)
    keeper = TunnelManager(served.service.public, start, proof, pointed, timeouts, status_every_s=0.05)
    keeping = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await all_gone([start["pid"] for start in place.happened("start")])


async def next_url(number: FakeNumber) -> str:
    async with asyncio.timeout(PATIENCE_S):
        return await number.pointed.get()


async def test_first_the_edge_then_the_name_then_the_proof_then_the_number(served: Served, place: Place) -> None:
    number = FakeNumber()
    async with keeping(served, place, number, STANDIN_UNREADY="2"):
        url = await next_url(number)
    happenings = [each.get("path", each["happening"]) for each in place.happenings()]
    assert happenings[:1] == ["start"]
    assert happenings.index("carried") > happenings.index("/quicktunnel") > happenings.index("/ready")
    assert happenings[: happenings.index("carried")].count("/ready") >= 3, "two were answered that it is not ready"
    assert url == served.service.public.base_url


async def test_a_name_that_is_known_late_delays_the_opening_and_nothing_else(served: Served, place: Place) -> None:
    number = FakeNumber()
    async with keeping(served, place, number, STANDIN_REFUSE="3"):
        await place.until("refused", 3)
        await next_url(number)
        assert len(place.happened("start")) == 1, "no restart was needed"
    assert len(place.happened("refused")) == 3


async def test_no_call_is_taken_before_the_proof_and_one_is_after_it(served: Served, place: Place) -> None:
    assert (await served.http.get("/readyz")).status_code == 503
    async with keeping(served, place):
        await served.until("the tunnel is open")
        assert (await served.http.get("/readyz")).status_code == 200
        assert isinstance(await ring(served), Connect)


async def ring(served: Served) -> Connect | Reject:
    """Ring through the tunnel, as Twilio would."""
    url = served.service.public.base_url + "/twilio/voice"
    fields = form(new_call_sid())
    async with httpx.AsyncClient() as http:
        answer = await http.post(url, data=fields, headers={"X-Twilio-Signature": sign(TOKEN, url, fields.items())})
    (verb,) = parse(answer.raise_for_status().text)
    assert isinstance(verb, Connect | Reject)
    return verb


async def test_the_answer_to_a_call_leads_through_the_tunnel(served: Served, place: Place) -> None:
    async with keeping(served, place):
        await served.until("the tunnel is open")
        verb = await ring(served)
        assert isinstance(verb, Connect)
        assert verb.url.startswith(socket_url(served.service.public.base_url) + "/twilio/media/")


async def test_a_tunnel_that_dies_is_started_again_and_everything_set_anew(served: Served, place: Place) -> None:
    number = FakeNumber()
    async with keeping(served, place, number):
        first = await next_url(number)
        os.kill(place.happened("start")[0]["pid"], signal.SIGKILL)
        await served.until("the tunnel is gone (it died")
        assert not served.service.public.is_open
        second = await next_url(number)
        assert len(place.happened("start")) == 2
        assert second == served.service.public.base_url != first
        assert isinstance(await ring(served), Connect)


async def test_a_call_that_is_on_hears_nothing_of_a_restart(served: Served, place: Place) -> None:
    number = FakeNumber()
    async with keeping(served, place, number):
        await next_url(number)
        async with call_past_the_tunnel(served) as call:
            await call.speaks(2)
            os.kill(place.happened("start")[0]["pid"], signal.SIGKILL)
            await served.until("the tunnel is gone")
            await call.speaks(2)
            await next_url(number)
            await call.speaks(2)


@contextlib.asynccontextmanager
async def call_past_the_tunnel(served: Served) -> AsyncIterator[Call]:
    """Place a call whose socket is not the tunnel's to lose."""
    call_sid = new_call_sid()
    url = served.service.public.base_url + "/twilio/voice"
    fields = form(call_sid)
    headers = {"X-Twilio-Signature": sign(TOKEN, url, fields.items())}
    (verb,) = parse((await served.http.post("/twilio/voice", data=fields, headers=headers)).text)
    assert isinstance(verb, Connect)
    local = f"ws://127.0.0.1:{served.settings.server.port}/twilio/media/{verb.url.rpartition('/')[2]}"
    signature = {"X-Twilio-Signature": sign(TOKEN, verb.url)}
    async with connect(local, additional_headers=signature, compression=None, proxy=None) as sock:
        call = Call(call_sid, sock)
        await call.begin()
        yield call


async def test_a_log_of_any_size_stops_nothing(served: Served, place: Place) -> None:
    async with keeping(served, place, STANDIN_FLOOD=str(8 << 20)):
        await served.until("the tunnel is open")


async def test_a_tunnel_that_never_connects_is_started_again(served: Served, place: Place) -> None:
    impatient = TunnelTimeouts(connect_s=0.2)
    async with keeping(served, place, timeouts=impatient, STANDIN_UNREADY="1000000"):
        await served.until("no connection to Cloudflare")
        await place.until("start", 2)


async def test_last_words_are_told_without_the_tunnels_token(served: Served, place: Place) -> None:
    settings = read_settings(
        tunnel=True, tunnel_token="a-secret", public_url="https://a.example", twilio_auth_token=TOKEN
    )
    environment = tunnel_environment(settings, {**place.environment, "STANDIN_FAIL": "Unauthorized"})
    tunnel = await Cloudflared.start([place.program], environment, 1, settings.server.public_url, settings.tunnel.token)
    assert await tunnel.exited_within(PATIENCE_S)
    assert "Unauthorized token=…" in tunnel.last_error
    await tunnel.stop()


async def test_a_cloudflared_that_hears_no_signal_is_killed(
    served: Served, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.cloudflared.STOP_WITHIN_S", 0.2)
    async with keeping(served, place, STANDIN_STUBBORN="1"):
        await place.until("start")
    (start,) = place.happened("start")
    assert not psutil.pid_exists(start["pid"])


async def test_cloudflared_learns_nothing_of_twilio(
    served: Served, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(served, place, TWILIO_AUTH_TOKEN="secret"):
        await place.until("start")
    assert "TWILIO_AUTH_TOKEN" not in place.happened("start")[0]["environment"]


@pytest.mark.skipif(not shutil.which("cloudflared"), reason="cloudflared is not installed")
async def test_the_real_cloudflared_understands_what_we_ask_of_it(served: Served) -> None:
    """It need not reach Cloudflare from here: it must take the options, and answer on its metrics port or say why."""
    program, port = shutil.which("cloudflared"), free_port()
    assert program
    environment = tunnel_environment(served.settings, dict(os.environ))
    tunnel = await Cloudflared.start(tunnel_command(served.settings, program, port), environment, port, None, secret="")
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await tunnel.exited_within(0.2) and (await tunnel.status()).url is None:
                pass
        assert "flag provided but not defined" not in tunnel.last_error
        assert "Incorrect Usage" not in tunnel.last_error
    finally:
        await tunnel.stop()
