"""What the doctor says of Moshi servers, right and wrong."""

import asyncio

import pytest

from app.cli.doctor.checks import examine
from app.cli.doctor.finding import Finding, Severity
from app.cli.service_process import free_port
from app.config import read_settings
from tests.app.cli.talk.moshi_server import MoshiServer, serving
from tests.app.cli.talk.test_tls import Certificate


async def of_servers(*urls: str) -> list[Finding]:
    settings = read_settings(
        engine="remote", moshi_servers=",".join(urls), port=free_port(), database_url="off", personas_dir="off"
    )
    found = await asyncio.to_thread(lambda: list(examine(settings)))
    assert {one.subject for one in found}.isdisjoint({"MLX", "MOSHI_CHECKPOINT", "memory"})
    return [one for one in found if one.subject == "MOSHI_SERVERS"]


async def test_each_server_is_tried() -> None:
    needs = frozenset({"voice_prompt", "text_prompt"})
    right, plex, full = MoshiServer(), MoshiServer(needs=needs), MoshiServer(status=503)
    async with serving(right), serving(plex), serving(full):
        right.ready.set()
        plex.ready.set()
        found = await of_servers(f"{right.url}?sessions=4", f"{plex.url}?kind=personaplex", full.url)
    assert [one.severity for one in found] == [Severity.GOOD, Severity.GOOD, Severity.PROBLEM]
    assert "ms, for 4 sessions" in found[0].found
    assert "HTTP 503" in found[2].found
    assert not right.heard


async def test_a_certificate_that_is_not_trusted_is_explained(tmp_path_factory: pytest.TempPathFactory) -> None:
    certificate = Certificate(tmp_path_factory.mktemp("certificate"))
    server = MoshiServer()
    async with serving(server, certificate.context):
        server.ready.set()
        (unknown,) = await of_servers(server.url)
        (pinned,) = await of_servers(f"{server.url}#sha256={certificate.sha256}")
        (trusted,) = await of_servers(f"{server.url}#ca={certificate.path}")
        (missing,) = await of_servers(f"{server.url}#ca=/no/such.pem")
    assert [one.severity for one in (unknown, pinned, trusted)] == [Severity.PROBLEM, Severity.GOOD, Severity.GOOD]
    assert "#sha256=" in unknown.found
    assert (missing.severity, "/no/such.pem" in missing.found) == (Severity.PROBLEM, True)
