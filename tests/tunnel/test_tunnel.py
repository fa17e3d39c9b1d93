"""The tunnel manager with the real service and a cloudflared whose public port is on this machine."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from app.http.selftest import probe
from app.server.cloudflared import Cloudflared, free_port, tunnel_command, tunnel_environment
from app.server.number_override import NumberManager
from app.server.tunnel import TunnelManager
from app.server.tunnel_state import TunnelTimeouts
from app.twilio.signature import sign, socket_url
from app.twilio.twiml import Connect, Verb, parse
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import TOKEN, Call, form, new_call_sid
from tests.service.served import Served
from tests.service.served import served as run_service
from tests.tunnel.install import FakeCloudflared, install
from tests.tunnel.number import FakeNumber, NumberTrouble

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
def cloudflared(tmp_path: Path) -> FakeCloudflared:
    return install(tmp_path / "bin")


@contextlib.asynccontextmanager
async def tunnelled(
    served: Served,
    cloudflared: FakeCloudflared,
    number: FakeNumber | None = None,
    timeouts: TunnelTimeouts = HASTY,
    **faults: str,
) -> AsyncIterator[None]:
    """Run a tunnel to the service until the block ends; its timeouts begin when the program is up."""

    async def start() -> Cloudflared:
        port = free_port()
        environment = tunnel_environment(served.settings, {**cloudflared.environment, **faults})
        line = tunnel_command(served.settings, cloudflared.program, port)
        before = len(cloudflared.events("start"))
        tunnel = await Cloudflared.start(line, environment, port, None, secret="")
        try:
            await cloudflared.until("start", before + 1)
        except asyncio.CancelledError:
            await tunnel.stop()
            raise
        return tunnel

    pointed = NumberManager(number, (NumberTrouble,), served.service.self_tested.wait) if number else None
    proof = partial(probe, auth_token=TOKEN, service_name=served.service.public.service_name)
    manager = TunnelManager(served.service.public, start, proof, pointed, timeouts, status_every_s=0.05)
    running = asyncio.create_task(manager.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})
        await cloudflared.gone()


async def test_first_the_edge_then_the_name_then_the_proof_then_the_number(
    served: Served, cloudflared: FakeCloudflared
) -> None:
    """Two answers that it is not ready, and a name that is known late, delay it and restart nothing."""
    number = FakeNumber()
    async with tunnelled(served, cloudflared, number, FAKE_UNREADY="2", FAKE_REFUSE="3"):
        url = await number.next_url()
    seen = [event.get("path", event["event"]) for event in cloudflared.events()]
    before = seen[: seen.index("carried")]
    assert before[0] == "start"
    assert seen.count("start") == 1
    assert before.index("refused") > before.index("/quicktunnel") > before.index("/ready")
    assert (before.count("/ready") >= 3, before.count("refused")) == (True, 3)
    assert url == served.service.public.base_url


async def test_no_call_is_taken_before_the_proof_and_one_is_after_it(
    served: Served, cloudflared: FakeCloudflared
) -> None:
    assert (await served.http.get("/readyz")).status_code == 503
    async with tunnelled(served, cloudflared, FAKE_FLOOD=str(8 << 20)):
        await served.until("the tunnel is open")
        assert (await served.http.get("/readyz")).status_code == 200
        verb = await ring(served)
        assert isinstance(verb, Connect)
        assert verb.url.startswith(socket_url(served.service.public.base_url) + "/twilio/media/")


async def ring(served: Served, past_the_tunnel: bool = False) -> Verb:
    """Ring through the tunnel, as Twilio would, or past it."""
    url = served.service.public.base_url + "/twilio/voice"
    fields = form(new_call_sid())
    headers = {"X-Twilio-Signature": sign(TOKEN, url, fields.items())}
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{served.url}/twilio/voice" if past_the_tunnel else url, data=fields, headers=headers)
    (verb,) = parse(answer.raise_for_status().text)
    return verb


async def test_a_tunnel_that_dies_is_started_again_and_a_call_that_is_on_hears_nothing_of_it(
    served: Served, cloudflared: FakeCloudflared
) -> None:
    number = FakeNumber()
    async with tunnelled(served, cloudflared, number):
        first = await number.next_url()
        verb = await ring(served, past_the_tunnel=True)
        assert isinstance(verb, Connect)
        signature = {"X-Twilio-Signature": sign(TOKEN, verb.url)}
        local = f"ws://127.0.0.1:{served.phone.port}/twilio/media/{verb.url.rpartition('/')[2]}"
        async with connect(local, additional_headers=signature, compression=None, proxy=None) as socket:
            call = Call(next(call.session.record.call_sid for call in served.service.manager.calls), socket)
            await call.begin()
            await call.speaks(2)
            os.kill(cloudflared.events("start")[0]["pid"], signal.SIGKILL)
            await served.until("the tunnel is gone (it died")
            assert not served.service.public.is_open
            await call.speaks(2)
            second = await number.next_url()
            await call.speaks(2)
        assert len(cloudflared.events("start")) == 2
        assert second == served.service.public.base_url != first
        assert isinstance(await ring(served), Connect)


async def test_a_tunnel_that_never_connects_is_killed_and_started_again(
    served: Served, cloudflared: FakeCloudflared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.cloudflared.STOP_WITHIN_S", 0.2)
    impatient = TunnelTimeouts(connect_s=0.2)
    async with tunnelled(served, cloudflared, timeouts=impatient, FAKE_UNREADY="1000000", FAKE_STUBBORN="1"):
        await served.until("no connection to Cloudflare")
        await cloudflared.until("start", 2)


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
