"""What real traffic does that no specification says, replayed over HTTP and sockets against one running service.

The facts are from public bug reports. A refused request must leave one line in the log that says what to change, and a
count in the metrics. The service answers its caller with an echo; one start serves all tests of this file.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.http.rate_limit import RefusalReason
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.signature import sign
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import PUBLIC, TOKEN, Phone, closing_code, form, media, new_call_sid, start
from tests.service.test_serve import GOOD, Program, free_port, serve

VOICE, STATUS, MEDIA = "/twilio/voice", "/twilio/status", "/twilio/media/"
SOCKET_BASE = PUBLIC.replace("https:", "wss:")
SUBACCOUNT = "AC" + "1" * 32

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Running:
    """The service as a process: what it is sent, what it has logged so far, what it has counted."""

    program: Program
    phone: Phone
    lines: list[str] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def http(self) -> httpx.AsyncClient:
        return self.phone.http

    @property
    def port(self) -> int:
        return self.phone.port

    async def read_log(self) -> None:
        """Collect lines until the log ends."""
        assert self.program.process.stderr
        async for line in self.program.process.stderr:
            self.lines.append(line.decode().rstrip("\n"))
            self._news.set()

    async def logged(self, since: int, *texts: str) -> list[str]:
        """Return the lines that have all these texts, from line number `since` on, at least one."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := [line for line in self.lines[since:] if all(text in line for text in texts)]):
                self._news.clear()
                await self._news.wait()
        return found

    async def refusals(self, reason: RefusalReason) -> float:
        """Return how many requests were refused for this reason."""
        answer = (await self.http.get("/metrics")).raise_for_status()
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.name == "moshi_bridge_refusals_total" and sample.labels["reason"] == reason.name.lower():
                    return float(sample.value)
        raise AssertionError(f"no count for {reason.name}")

    @contextlib.asynccontextmanager
    async def refusing(self, reason: RefusalReason) -> AsyncIterator[None]:
        """Expect that the block's one request is refused for this reason: one warning, counted once."""
        since, before = len(self.lines), await self.refusals(reason)
        yield
        (line,) = await self.logged(since, f"refused: {reason}")
        assert '"level": "warning"' in line
        assert await self.refusals(reason) == before + 1

    async def send(
        self, method: str, path: str, fields: Mapping[str, str] | None = None, url: str | None = None
    ) -> httpx.Response:
        """Send a form, signed for `url` or, if None, for the path at PUBLIC_URL."""
        fields = form(new_call_sid()) if fields is None else fields
        headers = {"X-Twilio-Signature": sign(TOKEN, url or PUBLIC + path, fields.items())}
        content = {"data": dict(fields)} if method == "POST" else {}
        return await self.http.request(method, path, headers=headers, **content)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[Running]:
    """Start a service, and collect what it logs."""
    port = free_port()
    many = {"REFUSALS_PER_MINUTE": "100000", "MAX_CALLS": "8", "LOG_FORMAT": "json"}
    async with (
        serve(folder, **{**GOOD, **many, **settings}, PORT=str(port)) as program,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        service = Running(program, Phone(port, http))
        reading = asyncio.create_task(service.read_log())
        try:
            await service.logged(0, "ready for calls")
            yield service
        finally:
            program.process.kill()
            await reading


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("bridge")) as service:
        yield service


def stream_url(answer: httpx.Response) -> str:
    """Return the address of the socket in the TwiML of an answer."""
    (verb,) = twiml.parse(answer.raise_for_status().text)
    assert isinstance(verb, twiml.Connect)
    return verb.url


@contextlib.asynccontextmanager
async def talking(service: Running, call_sid: CallSid, url: str, path: str | None = None) -> AsyncIterator[None]:
    """Open the socket of a call, at another path than the TwiML's if one is given, and see its stream begin."""
    local = url.replace(SOCKET_BASE, f"ws://127.0.0.1:{service.port}") if path is None else path
    headers = {"X-Twilio-Signature": sign(TOKEN, url)}
    async with connect(local, additional_headers=headers, compression=None, proxy=None) as opened:
        await opened.send('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        await opened.send(start(call_sid))
        await opened.send(media(2))
        async with asyncio.timeout(PATIENCE_S):
            assert await opened.recv()
        yield


# Requests that go to the wrong place


@pytest.mark.parametrize(
    ("method", "path", "reason", "status"),
    [
        ("GET", VOICE, RefusalReason.WRONG_METHOD, 405),
        ("GET", STATUS, RefusalReason.WRONG_METHOD, 405),
        ("PUT", VOICE, RefusalReason.WRONG_METHOD, 405),
        ("POST", "/", RefusalReason.WRONG_PATH, 404),
        ("GET", "/", RefusalReason.WRONG_PATH, 404),
        ("POST", "/voice", RefusalReason.WRONG_PATH, 404),
        ("POST", "/twilio", RefusalReason.WRONG_PATH, 404),
        ("POST", "/twilio/Voice", RefusalReason.WRONG_PATH, 404),
        ("POST", "/bridge/twilio/voice", RefusalReason.PREFIX, 404),
        ("POST", "/bridge/twilio/voice/", RefusalReason.PREFIX, 404),
        ("GET", "/bridge/twilio/media/token", RefusalReason.PREFIX, 404),
        ("GET", "/twilio/media/token", RefusalReason.NO_UPGRADE, 426),
        ("GET", "/twilio/selftest", RefusalReason.NO_UPGRADE, 426),
    ],
)
async def test_a_request_that_goes_to_the_wrong_place_is_told_what_to_change(
    service: Running, method: str, path: str, reason: RefusalReason, status: int
) -> None:
    async with service.refusing(reason):
        answer = await service.send(method, path)
    assert answer.status_code == status
    assert answer.text.endswith(reason)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/twilio/voice", RefusalReason.WRONG_PATH), ("/bridge/twilio/media/token", RefusalReason.PREFIX)],
)
async def test_an_upgrade_that_goes_to_the_wrong_place_is_told_what_to_change(
    service: Running, path: str, reason: RefusalReason
) -> None:
    async with service.refusing(reason):
        with pytest.raises(InvalidStatus) as refusal:
            async with connect(f"ws://127.0.0.1:{service.port}{path}", proxy=None):
                pass
    assert refusal.value.response.status_code == 404


async def test_what_is_none_of_twilios_leaves_no_line(service: Running) -> None:
    since = len(service.lines)
    for path in ("/favicon.ico", "/wp-login.php"):
        assert (await service.http.get(path)).status_code == 404
    assert (await service.http.post("/healthz")).status_code == 405
    async with service.refusing(RefusalReason.UNSIGNED):
        assert (await service.phone.post(VOICE, form(new_call_sid()), token=None)).status_code == 403
    assert len([line for line in service.lines[since:] if '"warning"' in line]) == 1


@pytest.mark.parametrize("path", ["/twilio/voice/", "/twilio/voice"])
async def test_a_slash_behind_the_path_works(service: Running, path: str) -> None:
    call_sid = new_call_sid()
    url = stream_url(await service.send("POST", path, form(call_sid)))
    async with talking(service, call_sid, url):
        pass


async def test_a_slash_behind_the_path_of_the_socket_works(service: Running) -> None:
    call_sid = new_call_sid()
    url = stream_url(await service.send("POST", VOICE, form(call_sid)))
    local = url.replace(SOCKET_BASE, f"ws://127.0.0.1:{service.port}")
    async with talking(service, call_sid, url, f"{local}/"):
        pass


async def test_a_prefix_in_public_url_works_whether_the_proxy_takes_it_away_or_not(tmp_path: Path) -> None:
    public = f"{PUBLIC}/bridge"
    async with running(tmp_path, PUBLIC_URL=public) as service:
        for prefix in ("", "/bridge"):
            call_sid = new_call_sid()
            answer = await service.send("POST", prefix + VOICE, form(call_sid), url=public + VOICE)
            url = stream_url(answer)
            assert url.startswith(f"{SOCKET_BASE}/bridge{MEDIA}")
            path = url.removeprefix(f"{SOCKET_BASE}/bridge")
            async with talking(service, call_sid, url, f"ws://127.0.0.1:{service.port}{prefix}{path}"):
                pass
        async with service.refusing(RefusalReason.PREFIX):
            assert (await service.send("POST", f"/other{VOICE}")).status_code == 404


# Requests that are not ours to serve


@pytest.mark.parametrize(
    "url", ["http://phone.example.com", "https://www.phone.example.com", "https://phone.example.com/bridge"]
)
async def test_a_public_url_that_is_not_the_one_of_the_console_is_named(service: Running, url: str) -> None:
    async with service.refusing(RefusalReason.WRONG_SIGNATURE):
        answer = await service.send("POST", VOICE, url=url + VOICE)
    assert answer.status_code == 403
    assert "PUBLIC_URL" in answer.text


async def test_a_call_of_a_subaccount_is_told_which_setting_names_the_account(service: Running) -> None:
    fields = {**form(new_call_sid()), "AccountSid": SUBACCOUNT}
    async with service.refusing(RefusalReason.OTHER_ACCOUNT):
        answer = await service.send("POST", VOICE, fields)
    assert answer.status_code == 403
    assert "TWILIO_ACCOUNT_SID" in answer.text


def many_headers(count: int, length: int) -> dict[str, str]:
    """Return the form of a call over SIP with so many headers, each value of this length."""
    return {**form(new_call_sid()), **{f"SipHeader_X-Header-{number}": "v" * length for number in range(count)}}


async def test_a_form_with_hundreds_of_sip_headers_is_a_call(service: Running) -> None:
    fields = many_headers(600, 30)
    url = stream_url(await service.send("POST", VOICE, fields))
    async with talking(service, CallSid(fields["CallSid"]), url):
        pass


@pytest.mark.parametrize(
    ("fields", "reason", "status"),
    [
        (many_headers(1_200, 1), RefusalReason.MALFORMED, 400),
        (many_headers(100, 1_000), RefusalReason.TOO_LARGE, 413),
        ({"AccountSid": "AC0"}, RefusalReason.MALFORMED, 400),
        ({**form(new_call_sid()), "CallSid": "CA-not-a-sid"}, RefusalReason.MALFORMED, 400),
    ],
    ids=["too many", "too large", "no call", "another kind of SID"],
)
async def test_a_form_that_cannot_be_read_leaves_a_line(
    service: Running, fields: dict[str, str], reason: RefusalReason, status: int
) -> None:
    async with service.refusing(reason):
        answer = await service.send("POST", VOICE, fields)
    assert answer.status_code == status


async def test_a_socket_whose_token_is_unknown_leaves_a_line(service: Running) -> None:
    since, before = len(service.lines), await service.refusals(RefusalReason.NO_TOKEN)
    with pytest.raises(InvalidStatus) as refusal:
        async with service.phone.dial(f"{SOCKET_BASE}{MEDIA}unknown"):
            pass
    assert refusal.value.response.status_code == 403
    await service.logged(since, "token is unknown, used or expired")
    assert await service.refusals(RefusalReason.NO_TOKEN) == before + 1


# Webhooks that come again


async def test_a_webhook_that_is_repeated_before_the_socket_opens_leads_to_the_same_stream(service: Running) -> None:
    call_sid = new_call_sid()
    first = await service.send("POST", VOICE, form(call_sid))
    free = (await service.http.get("/readyz")).json()["free_slots"]
    again = await service.send("POST", VOICE, form(call_sid))
    assert again.text == first.text
    assert (await service.http.get("/readyz")).json()["free_slots"] == free
    async with talking(service, call_sid, stream_url(again)):
        pass


# Connections


async def test_hundreds_of_connections_that_are_reset_at_once_end_no_call(service: Running) -> None:
    """On macOS a socket option cannot be set on a connection that is reset already."""
    async with service.phone.call() as call:
        await call.speaks(2)
        for _ in range(400):
            with socket.create_connection(("127.0.0.1", service.port)) as reset:
                reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await call.speaks(3)
        assert (await service.http.get("/healthz")).status_code == 200


async def test_a_form_whose_body_does_not_follow_is_not_waited_for_by_others(service: Running) -> None:
    body = urlencode(form(new_call_sid()))
    head = f"POST {VOICE} HTTP/1.1\r\nHost: here\r\nX-Twilio-Signature: x\r\nContent-Length: {len(body)}\r\n\r\n"
    slow = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(50)]
    for _, writer in slow:
        writer.write(head.encode())
    async with service.phone.call() as call:
        await call.speaks(2)
    for _, writer in slow:
        writer.close()


async def test_a_message_that_is_too_large_ends_the_call_and_the_log_has_the_code(service: Running) -> None:
    since = len(service.lines)
    async with service.phone.call() as call:
        await call.speaks()
        await call.socket.send("x" * 100_000)
        assert await closing_code(call.socket) == 1009
    (line,) = await service.logged(since, call.call_sid, "ended: ")
    assert "1009" in line
