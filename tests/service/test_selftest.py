"""The self-test's socket, and who asks it, against the real service."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from app.http import selftest
from app.http.paths import SELFTEST_PATH
from app.http.selftest import ProbeFailed, probe
from app.twilio.signature import sign, socket_url
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import SECONDARY, TOKEN
from tests.service.served import Served, served

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Served]:
    """A service whose public address is its own port."""
    async with served(public_url="", twilio_auth_token_secondary=SECONDARY) as running:
        yield running


def socket_of(service: Served) -> str:
    return socket_url(service.url) + SELFTEST_PATH


def dial(service: Served, signature: str | None) -> connect:
    headers = {} if signature is None else {"X-Twilio-Signature": signature}
    return connect(socket_of(service), additional_headers=headers, compression=None, proxy=None)


@pytest.mark.parametrize("token", [TOKEN, SECONDARY], ids=["primary", "secondary"])
async def test_a_signed_socket_comes_back(service: Served, token: str) -> None:
    await probe(service.url, token, service.service.public.service_name)


async def test_a_refused_socket_and_another_service_are_no_proof(service: Served) -> None:
    name = service.service.public.service_name
    for token, expected, words in (("another-token", name, "403"), (TOKEN, "another-name", "another moshi-bridge")):
        with pytest.raises(ProbeFailed, match=words) as caught:
            await probe(service.url, token, expected)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://no-such-host.invalid"], ids=["no port", "no name"])
async def test_an_address_that_leads_nowhere_is_told_in_one_line(url: str) -> None:
    with pytest.raises(ProbeFailed) as caught:
        await probe(url, TOKEN, "name")
    assert "\n" not in str(caught.value)


async def test_an_address_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "PROBE_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(ProbeFailed, match="no answer within"):
        await probe(f"http://127.0.0.1:{deaf.getsockname()[1]}", TOKEN, "name")


async def test_a_server_that_answers_anything_else_is_no_proof() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ProbeFailed, match="200"):
            await probe(f"http://127.0.0.1:{port}", TOKEN, "name")


@pytest.mark.parametrize("said", ["n" * 5_000, b"binary", ""], ids=["long", "binary", "empty"])
async def test_whatever_is_asked_the_answer_is_short_and_the_socket_closes(service: Served, said: str | bytes) -> None:
    async with dial(service, sign(TOKEN, socket_of(service))) as sock:
        await sock.send(said)
        async with asyncio.timeout(PATIENCE_S):
            answers = [answer async for answer in sock]
    assert sock.close_code == 1000
    assert all(len(answer) < 100 for answer in answers)
    assert len(answers) == (1 if isinstance(said, str) and said else 0)


async def test_a_socket_that_asks_nothing_is_closed(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "NONCE_WITHIN_S", 0.01)
    async with dial(service, sign(TOKEN, socket_of(service))) as sock, asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionClosedError):
            await sock.wait_closed()
    assert sock.close_code == 1000


async def test_a_program_on_this_machine_is_told_the_address(service: Served) -> None:
    told = {"base_url": service.url, "open": True, "service": service.service.public.service_name}
    assert (await service.http.get("/api/public")).json() == told
