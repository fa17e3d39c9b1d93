"""What a stranger can write on a connection that no HTTP library would, byte by byte."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from app.twilio.signature import sign
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import PUBLIC, TOKEN, form, new_call_sid
from tests.service.served import served

VOICE = "/twilio/voice"
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Wire:
    """Connections to a service, and what it answers."""

    port: int

    async def ask(self, first_line: str, *headers: str, body: str = "", host: str | None = None) -> str:
        """Send one request; return the status line and the headers of the answer."""
        lines = [f"{first_line} HTTP/1.1", f"Host: 127.0.0.1:{self.port}" if host is None else host, *headers]
        written = "\r\n".join(line for line in lines if line) + "\r\n\r\n" + body
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(written.encode("latin-1"))
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return answer.decode("latin-1")

    async def ring(self, first_line: str, signature: str, fields: dict[str, str], *headers: str) -> str:
        """Post a form as Twilio does, but for the first line and some headers more."""
        body = urlencode(fields)
        length = f"Content-Length: {len(body)}"
        return await self.ask(first_line, f"X-Twilio-Signature: {signature}", length, *headers, body=body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wire() -> AsyncIterator[Wire]:
    async with served(refusals_per_minute=100_000, max_calls=16) as running:
        yield Wire(running.phone.port)


def status(answer: str) -> int:
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        (f"{VOICE}/", 403),
        *((path, 404) for path in (f"/{VOICE}", f"/x/..{VOICE}", f"/.{VOICE}", f"{VOICE}/.", "twilio/voice", "*")),
        *((path, 404) for path in (f"{VOICE}%2e", f"{VOICE};x", f"{VOICE}%00")),
        *((path, 404) for path in (f"{PUBLIC}{VOICE}", f"http://127.0.0.1{VOICE}", f"{VOICE}#x")),
    ],
)
async def test_a_signature_is_good_for_one_way_to_write_the_path(wire: Wire, path: str, refusal: int) -> None:
    fields = form(new_call_sid())
    answer = await wire.ring(f"POST {path}", sign(TOKEN, PUBLIC + VOICE, fields.items()), fields)
    assert status(answer) == refusal
    assert "location" not in answer.lower()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "RING"])
async def test_a_signature_is_good_for_no_other_method(wire: Wire, method: str) -> None:
    fields = form(new_call_sid())
    answer = await wire.ring(f"{method} {VOICE}", sign(TOKEN, PUBLIC + VOICE, fields.items()), fields)
    assert status(answer) == 405


@pytest.mark.parametrize(
    "header",
    [
        "X-Twilio-Signature: another",
        "X-Forwarded-Host: evil.example",
        "X-Original-URL: /",
        "X-HTTP-Method-Override: GET",
    ],
)
async def test_headers_beside_the_signature_change_nothing(wire: Wire, header: str) -> None:
    fields = form(new_call_sid())
    good, wrong = sign(TOKEN, PUBLIC + VOICE, fields.items()), sign(TOKEN, PUBLIC + "/else", fields.items())
    assert status(await wire.ring(f"POST {VOICE}", good, fields, header)) == 200
    assert status(await wire.ring(f"POST {VOICE}", wrong, fields, header)) == 403


@pytest.mark.parametrize(
    "host",
    [
        *("Host: phone.example.com", "Host:", "Host: localhost@evil.example", "Host: evil.example@127.0.0.1"),
        *("Host: evil.example/@localhost", "Host: 127.0.0.1#.evil.example", "Host: evil.example\\@127.0.0.1"),
    ],
)
@pytest.mark.parametrize("request_line", ["GET /api/calls", "GET /api/public", "GET /api/loop", "POST /api/drain"])
async def test_the_way_to_the_operators_room_needs_a_plain_host_of_this_machine(
    wire: Wire, host: str, request_line: str
) -> None:
    assert status(await wire.ask(request_line, "Content-Length: 0", host=host)) == 403
    assert status(await wire.ask("GET /api/calls")) == 200


async def test_a_refused_socket_is_no_error_of_the_services(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    refused = ("/twilio/media/none", "/twilio/selftest", "/api/calls/CA1/events", "/nowhere")
    for path, refusal in (*((path, 403) for path in refused), ("/twilio/voice", 404)):
        answer = await wire.ask(f"GET {path}", UPGRADE.strip(), host="Host: phone.example.com")
        assert status(answer) == refusal
    assert "/twilio/media/… refused" in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
