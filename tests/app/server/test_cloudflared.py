"""What is read off a metrics port, whatever answers there."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from app.server import cloudflared as module
from app.server.cloudflared import Cloudflared, free_port
from app.server.tunnel_state import TunnelStatus
from tests.processes.pipeline import PATIENCE_S

PHONE = "https://phone.example.com"


@contextlib.asynccontextmanager
async def tunnel(port: int, url: str | None = None) -> AsyncIterator[Cloudflared]:
    """A tunnel whose process does nothing."""
    running = await Cloudflared.start(["/bin/sleep", "60"], {}, port, url, secret="")
    try:
        yield running
    finally:
        await running.stop()


@contextlib.asynccontextmanager
async def metrics(quicktunnel: bytes | None, ready: bytes = b"200 OK") -> AsyncIterator[int]:
    """Answer so to /quicktunnel (None: not at all) and to /ready; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status, body = (ready, b"{}") if b"/ready" in head else (b"200 OK", quicktunnel)
        if body is not None:
            writer.write(
                b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)
            )
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_quick_tunnels_url_and_connection_are_read() -> None:
    async with metrics(b'{"hostname": "calm.trycloudflare.com"}') as port, tunnel(port) as running:
        assert await running.status() == TunnelStatus("https://calm.trycloudflare.com", connected=True)


async def test_a_tunnel_without_a_connection_to_the_edge_says_so() -> None:
    answers = metrics(b'{"hostname": "calm.trycloudflare.com"}', ready=b"503 Service Unavailable")
    async with answers as port, tunnel(port) as running:
        assert await running.status() == TunnelStatus("https://calm.trycloudflare.com", connected=False)


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"[]", b"{}", b'{"hostname": ""}', b'{"hostname": 7}', b"\xff\xfe", None]
)
async def test_whatever_else_is_answered_there_is_no_url_yet(answer: bytes | None) -> None:
    async with metrics(answer) as port, tunnel(port) as running:
        assert (await running.status()).url is None


async def test_a_named_tunnels_url_is_known_beforehand() -> None:
    async with metrics(None) as port, tunnel(port, PHONE) as running:
        assert await running.status() == TunnelStatus(PHONE, connected=True)


async def test_a_metrics_port_that_is_not_there_or_says_nothing_is_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with tunnel(free_port(), PHONE) as running:
        assert await running.status() == TunnelStatus(None, connected=False)
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        async with tunnel(deaf.getsockname()[1], PHONE) as running:
            assert await running.status() == TunnelStatus(None, connected=False)


async def test_the_complaint_about_the_empty_configuration_is_not_what_it_died_of() -> None:
    said = "2026-01-01T00:00:00Z ERR Configuration file /dev/null was empty"
    running = await Cloudflared.start(["/bin/sh", "-c", f"echo no such flag >&2; echo {said} >&2"], {}, 1, None, "")
    async with asyncio.timeout(PATIENCE_S):
        while not await running.exited_within(1.0):
            pass
    assert running.last_error == "no such flag"
    await running.stop()
