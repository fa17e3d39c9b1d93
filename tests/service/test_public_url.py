"""PUBLIC_URL in every spelling, with calls over real HTTP and sockets that are signed in every spelling."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from app.config import read_settings
from app.http.selftest import ProbeFailed, probe
from app.server.service import Service
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.report import Outcome
from app.twilio import twiml
from app.twilio.signature import sign, socket_url
from tests.app.twilio.test_signature import PUBLIC_URLS
from tests.processes.pipeline import log_lines
from tests.service.phone import ACCOUNT, TOKEN, form, new_call_sid
from workers.lines import hiding

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Served:
    """A running service, where it listens, and its log."""

    service: Service
    here: str
    log: asyncio.Queue[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    settings = read_settings(
        engine="loopback", codec="loopback", max_calls=4, twilio_auth_token=TOKEN, twilio_account_sid=ACCOUNT
    )
    with socket.create_server(("127.0.0.1", 0)) as sock:
        service = Service(settings, lambda _: None)
        async with log_lines("app") as log:
            serving = asyncio.create_task(service.run(sock))
            await service.self_tested.wait()
            yield Served(service, f"http://127.0.0.1:{sock.getsockname()[1]}", log)
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


def move(served: Served, public_url: str) -> str:
    """Give the service this PUBLIC_URL as the settings read it, and return that."""
    base_url = read_settings(public_url=public_url).base_url
    served.service.public.move(base_url)
    return base_url


async def ring(served: Served, base: str) -> str:
    """Ring with what is signed for the webhook below `base`; return the URL of the socket, as the TwiML says it."""
    fields = form(new_call_sid())
    signature = {"X-Twilio-Signature": sign(TOKEN, f"{base}/twilio/voice", fields.items())}
    async with httpx.AsyncClient(base_url=served.here) as http:
        answer = await http.post("/twilio/voice", data=fields, headers=signature)
    (verb,) = twiml.parse(answer.raise_for_status().text)
    assert isinstance(verb, twiml.Connect)
    return verb.url


async def dial(served: Served, url: str, signed_url: str) -> None:
    """Open the socket and close it again; raises InvalidStatus if it is refused. A proxy takes the prefix away."""
    here = socket_url(served.here) + url[url.index("/twilio/") :]
    signature = {"X-Twilio-Signature": sign(TOKEN, signed_url)}
    async with connect(here, additional_headers=signature, compression=None, proxy=None):
        pass


@pytest.mark.parametrize(("public_url", "bases"), PUBLIC_URLS)
async def test_a_call_that_is_signed_in_any_spelling_comes_through(
    served: Served, public_url: str, bases: tuple[str, ...]
) -> None:
    move(served, public_url)
    for base in bases:
        url = await ring(served, base)
        await dial(served, url, url)
        url = await ring(served, base)
        await dial(served, url, socket_url(base) + url[url.index("/twilio/") :])


@pytest.mark.parametrize("public_url", [url for url, (base, *_) in PUBLIC_URLS if base.count("/") == 2])
async def test_our_own_simulated_calls_come_through(served: Served, public_url: str) -> None:
    base_url = move(served, public_url)
    report = await simulate(CallOptions(base_url, TOKEN, ACCOUNT, duration_s=0.2, dial_url=served.here))
    assert report.outcome is Outcome.CALLER_HUNG_UP, report.sentence


async def test_no_log_line_shows_a_password(served: Served) -> None:
    base_url = move(served, "https://me:a-pass-word@127.0.0.1:1")
    shown = hiding(())(f"the tunnel is open: {base_url}/twilio/voice leads here")
    assert shown == "the tunnel is open: https://…@127.0.0.1:1/twilio/voice leads here"
    with pytest.raises(ProbeFailed) as caught:
        await probe(base_url, TOKEN, served.service.public.service_name)
    assert "a-pass-word" not in hiding(())(str(caught.value))
