"""What the doctor says about the tunnel, and about a service that runs."""

import asyncio
import base64
import json
import socket
from pathlib import Path

import pytest

from app.cli.doctor import tunnel as doctor_tunnel
from app.cli.doctor.checks import examine
from app.cli.doctor.finding import Finding, Level
from app.cli.doctor.tunnel import examine_tunnel, running_service
from app.config import read_settings
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import GOOD, free_port, serve
from tests.tunnel.install import install
from tests.twilio_rest.account import Account, OwnedNumber
from tests.twilio_rest.server import serving_rest

PUBLIC = "https://phone.example.com"


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on PATH, nobody's home."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))


def findings(**settings: object) -> dict[str, Finding]:
    chosen = read_settings(**{"port": free_port(), **settings})
    return {finding.subject: finding for finding in examine_tunnel(chosen)}


def token_of(**content: str) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


def test_cloudflared_is_named_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{place.folder}:/bin")
    found = findings()["cloudflared"]
    assert (found.level, found.found) == (Level.GOOD, f"2025.9.1 at {place.program}")


@pytest.mark.parametrize(("tunnel", "level"), [(False, Level.NOTE), (True, Level.PROBLEM)])
def test_without_cloudflared_it_is_said_how_to_install_it(tunnel: bool, level: Level) -> None:
    found = findings(tunnel=tunnel)["cloudflared"]
    assert found.level is level
    assert "brew install cloudflared" in found.advice


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "#!/no/such/shell\n", "#!/bin/sh\necho hello\n"])
def test_a_cloudflared_that_does_not_run_is_a_problem(tmp_path: Path, script: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cloudflared").write_text(script)
    (tmp_path / "bin" / "cloudflared").chmod(0o755)
    assert findings()["cloudflared"].level is Level.PROBLEM


@pytest.mark.parametrize(
    ("token", "level"),
    [
        (token_of(a="account", t="tunnel", s="secret"), Level.GOOD),
        (token_of(a="account"), Level.PROBLEM),
        ("no-base64!", Level.PROBLEM),
        (base64.b64encode(b"[]").decode(), Level.PROBLEM),
    ],
    ids=["whole", "part", "text", "list"],
)
def test_a_tunnels_token_is_checked_and_never_shown(token: str, level: Level) -> None:
    found = findings(tunnel_token=token, public_url=PUBLIC)["TUNNEL_TOKEN"]
    assert found.level is level
    assert token not in found.found + found.advice


def test_a_named_tunnel_needs_credentials_on_this_machine(tmp_path: Path) -> None:
    named = {"tunnel_name": "phone", "public_url": PUBLIC}
    missing = findings(**named)["TUNNEL_NAME"]
    assert missing.level is Level.PROBLEM
    assert "cloudflared tunnel create phone" in missing.advice
    (tmp_path / ".cloudflared").mkdir()
    (tmp_path / ".cloudflared" / "0000.json").touch()
    assert findings(**named)["TUNNEL_NAME"].level is Level.GOOD


def test_a_named_tunnel_needs_its_public_url() -> None:
    assert findings(tunnel_name="phone")["tunnel"].level is Level.PROBLEM


def test_without_a_service_nothing_is_sent_out() -> None:
    found = findings(public_url=PUBLIC)["self-test"]
    assert (found.level, found.found.split(":")[0]) == (Level.NOTE, "not tried")


def test_who_listens_and_never_answers_is_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_tunnel, "ANSWER_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        assert running_service(read_settings(port=deaf.getsockname()[1])) is None


async def examined(port: int, **settings: object) -> dict[str, Finding]:
    """Return all findings while a service runs; the doctor has an event loop of its own."""
    chosen = read_settings(engine="loopback", codec="loopback", port=port, **settings)
    return await asyncio.to_thread(lambda: {finding.subject: finding for finding in examine(chosen)})


async def test_a_service_that_runs_is_found_and_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    async with serve(tmp_path, **{**GOOD, "PUBLIC_URL": public}, PORT=str(port)) as program:
        await program.until("ready for calls")
        found = await examined(port)
        assert found["PORT"].found.endswith("moshi-bridge runs there already")
        assert (found["self-test"].level, found["self-test"].advice) == (Level.NOTE, "moshi-bridge serve --tunnel")

        monkeypatch.setattr(doctor_tunnel, "is_loopback", lambda host: False)
        found = await examined(port, twilio_auth_token=TOKEN)
        assert (found["self-test"].level, found["self-test"].found) == (
            Level.GOOD,
            f"a signed socket came back through {public}",
        )
        found = await examined(port, twilio_auth_token="another")
        assert found["self-test"].level is Level.PROBLEM
        assert "\n" not in found["self-test"].found


async def test_the_number_is_held_against_the_url_of_the_service_that_runs(tmp_path: Path) -> None:
    """A quick tunnel's URL is in no .env: the doctor's settings know of none."""
    port, number = free_port(), OwnedNumber("+15550100000", f"{PUBLIC}/twilio/voice")
    ours = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN, "twilio_phone_number": number.phone_number}
    async with (
        serve(tmp_path, **{**GOOD, "PUBLIC_URL": PUBLIC}, PORT=str(port)) as program,
        serving_rest(Account(ACCOUNT, TOKEN, numbers=[number])) as twilio,
    ):
        await program.until("ready for calls")
        found = await examined(port, twilio_api_url=twilio.url, **ours)
        assert (found["PUBLIC_URL"].level, found["number"].level) == (Level.GOOD, Level.GOOD)
        assert PUBLIC in found["PUBLIC_URL"].found
        number.voice_url = "https://old.example.com/v"
        assert (await examined(port, twilio_api_url=twilio.url, **ours))["number"].level is Level.PROBLEM


async def test_a_public_url_that_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    port = free_port()
    nowhere = {**GOOD, "PUBLIC_URL": "https://no-such-host.invalid"}
    async with serve(tmp_path, **nowhere, PORT=str(port)) as program:
        await program.until("ready for calls")
        found = (await examined(port, twilio_auth_token=TOKEN))["self-test"]
    assert found.level is Level.PROBLEM
    assert f"must lead to http://127.0.0.1:{port}" in found.advice


async def test_a_service_whose_tunnel_is_not_open_is_a_problem(tmp_path: Path) -> None:
    place, port = install(tmp_path / "bin"), free_port()
    waiting = {**place.environment, "FAKE_UNREADY": "1000000"}
    async with serve(tmp_path, **GOOD, **waiting, TUNNEL="true", PORT=str(port)) as program:
        await program.until("workers are ready")
        found = (await examined(port, twilio_auth_token=TOKEN))["self-test"]
    assert (found.level, found.found) == (Level.PROBLEM, "the service runs, but its tunnel is not open")
