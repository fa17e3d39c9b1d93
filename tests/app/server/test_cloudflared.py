"""What is read from a metrics port, whatever answers there, and how cloudflared is started."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings, SettingsError, read_settings
from app.server import cloudflared as module
from app.server.cloudflared import Cloudflared, find_cloudflared, free_port, tunnel_command, tunnel_environment, url_of
from app.server.tunnel_state import TunnelStatus
from app.twilio.signature import SignatureCheck, sign
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import PUBLIC, TOKEN

CALM, CALM_URL = b'{"hostname": "calm.trycloudflare.com"}', "https://calm.trycloudflare.com"


@pytest.fixture(autouse=True)
def _answers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", PATIENCE_S)


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
            start = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
            writer.write(start + body)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("quicktunnel", "ready", "named", "status"),
    [
        (CALM, b"200 OK", None, TunnelStatus(CALM_URL, connected=True)),
        (CALM, b"503 Service Unavailable", None, TunnelStatus(CALM_URL, connected=False)),
        (None, b"200 OK", PUBLIC, TunnelStatus(PUBLIC, connected=True)),
    ],
    ids=["connected", "not connected", "named"],
)
async def test_url_and_connection_are_read(
    quicktunnel: bytes | None, ready: bytes, named: str | None, status: TunnelStatus
) -> None:
    async with metrics(quicktunnel, ready) as port, tunnel(port, named) as running:
        assert await running.status() == status


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"[]", b"{}", b'{"hostname": ""}', b'{"hostname": 7}', b"\xff\xfe", None]
)
async def test_after_any_other_answer_there_is_no_url_yet(answer: bytes | None) -> None:
    async with metrics(answer) as port, tunnel(port) as running:
        assert (await running.status()).url is None


async def test_a_metrics_port_that_does_not_answer_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        for port in (free_port(), deaf.getsockname()[1]):
            async with tunnel(port, PUBLIC) as running:
                assert await running.status() == TunnelStatus(None, connected=False)


async def test_its_last_error_has_no_token_and_is_not_the_one_about_the_empty_configuration() -> None:
    said = "2026-01-01T00:00:00Z ERR Configuration file /dev/null was empty"
    program = ["/bin/sh", "-c", f"echo no such flag token=a-secret >&2; echo {said} >&2"]
    running = await Cloudflared.start(program, {}, 1, None, secret="a-secret")
    async with asyncio.timeout(PATIENCE_S):
        while not await running.exited_within(1.0):
            pass
    assert running.last_error == "no such flag token=…"
    await running.stop()


def settings_of(**settings: object) -> Settings:
    return read_settings(tunnel=True, twilio_auth_token=TOKEN, **settings)


def test_a_quick_tunnel_leads_to_host_and_port_without_the_operators_configuration() -> None:
    where = ["--config", "/dev/null", "--url", "http://127.0.0.1:5007"]
    assert tunnel_command(settings_of(port=5007), "cloudflared", 6000) == (
        ["cloudflared", "tunnel", *where, "--no-autoupdate", "--metrics", "127.0.0.1:6000"]
    )


def test_a_named_tunnel_is_run_by_its_name_with_its_operators_configuration() -> None:
    command = tunnel_command(settings_of(tunnel_name="phone", public_url=PUBLIC), "cloudflared", 6000)
    assert command[-4:] == ["run", "--url", "http://127.0.0.1:5001", "phone"]
    assert "--config" not in command


def test_a_tunnels_token_is_in_the_environment_and_never_on_the_command_line() -> None:
    settings = settings_of(tunnel_token="a-secret", public_url=PUBLIC)
    assert "a-secret" not in " ".join(tunnel_command(settings, "cloudflared", 6000))
    assert tunnel_environment(settings, {}) == {"TUNNEL_TOKEN": "a-secret"}


def test_cloudflared_gets_neither_our_settings_nor_options_of_the_shell() -> None:
    passed_on = {"PATH": "/bin", "HTTPS_PROXY": "http://proxy"}
    ours = {"TWILIO_AUTH_TOKEN": TOKEN, "MOSHI_BRIDGE_TWILIO_AUTH_TOKEN": TOKEN, "MOSHI_BRIDGE_PORT": "5002"}
    options = {"TUNNEL_NAME": "x", "TUNNEL_CONFIG": "/home/me/another.yml", "tunnel_hostname": "another.example.com"}
    assert tunnel_environment(settings_of(), {**passed_on, **ours, **options}) == passed_on


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:5001"), ("::", "http://[::1]:5001"), ("10.0.0.7", "http://10.0.0.7:5001")],
)
def test_the_tunnel_reaches_any_address_that_is_listened_on(host: str, url: str) -> None:
    command = tunnel_command(settings_of(host=host), "cloudflared", 6000)
    assert command[command.index("--url") + 1] == url


def test_without_cloudflared_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"^[^\n]*brew install cloudflared[^\n]*$"):
        find_cloudflared()


NO_HOSTS = ("", None, 7, ["a.b"], "a b", "a/b", "a@b", "host:", "host:99999", "-a", "A.B")


@pytest.mark.parametrize(
    ("hostname", "url"),
    [
        ("calm.trycloudflare.com", CALM_URL),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        *((other, None) for other in NO_HOSTS),
    ],
)
def test_a_host_name_becomes_a_url_and_anything_else_does_not(hostname: object, url: str | None) -> None:
    assert url_of(hostname) == url


@given(st.text() | st.from_regex(r"[a-z0-9.:-]{1,30}"))
def test_what_passes_for_a_host_name_can_be_signed_for(hostname: str) -> None:
    if url := url_of(hostname):
        assert SignatureCheck(url, [TOKEN]).webhook_valid("/voice", (), sign(TOKEN, f"{url}/voice"))
