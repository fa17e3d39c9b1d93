"""Whom a client trusts, against servers with certificates of their own."""

import hashlib
import io
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from app.cli.talk.connection import converse
from app.cli.talk.screen import Screen
from app.cli.talk.sound import FileSound, TalkFailed
from app.cli.talk.target import Wanted, find_target
from app.config import read_settings
from app.server.remote.tls import make_context
from app.server_urls import parse_pin
from tests.app.cli.talk.moshi_server import MoshiServer, serving
from tests.app.cli.talk.tones import tone

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
MAKE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=moshi"


class Certificate:
    """Self-signed, for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.path, key = folder / "cert.pem", folder / "key.pem"
        files = ["-keyout", str(key), "-out", str(self.path), "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*MAKE.split(), *files], check=True, capture_output=True)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(self.path, key)
        der = ssl.PEM_cert_to_DER_cert(self.path.read_text())
        self.sha256 = hashlib.sha256(der).hexdigest()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


async def talk(certificate: Certificate, ca: Path | None = None, pin: str | None = None) -> MoshiServer:
    console = Console(file=io.StringIO())
    async with serving(MoshiServer(), certificate.context) as server:
        server.ready.set()
        target = find_target(read_settings(), Wanted(server.url, token="secret", ca=ca, pin=pin))
        try:
            assert await converse(target, FileSound(tone(0.2), 0.3), Screen(console, console.status("")))
        except TalkFailed:
            assert not server.authorization, "no token is sent to a server that is not trusted"
            raise
    assert server.authorization == "Bearer secret"
    return server


async def test_an_unknown_authority_is_refused(certificate: Certificate) -> None:
    with pytest.raises(TalkFailed, match="--pin"):
        await talk(certificate)


async def test_an_authority_of_ones_own(certificate: Certificate) -> None:
    await talk(certificate, ca=certificate.path)


async def test_a_pinned_certificate(certificate: Certificate) -> None:
    await talk(certificate, pin=certificate.sha256)


async def test_another_certificate_than_the_pinned_one_is_refused(certificate: Certificate) -> None:
    with pytest.raises(TalkFailed, match=certificate.sha256):
        await talk(certificate, pin="0" * 64)


def test_a_pin_is_taken_as_openssl_prints_it() -> None:
    digits = "0123456789abcdef" * 4
    colons = ":".join(digits[at : at + 2] for at in range(0, 64, 2)).upper()
    assert parse_pin(digits) == parse_pin(colons) == parse_pin(f"sha256 Fingerprint={colons}") == digits


@pytest.mark.parametrize("pin", ["abc", "g" * 64, "0" * 63, ""])
def test_what_is_no_pin(pin: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        parse_pin(pin)


def test_what_is_no_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ValueError, match=name):
            make_context(tmp_path / name, None)
