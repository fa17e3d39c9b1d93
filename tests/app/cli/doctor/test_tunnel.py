"""What the doctor says about the tunnel, and about a service that runs."""

import asyncio
import base64
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.cli.doctor import tunnel as doctor_tunnel
from app.cli.doctor.checks import examine
from app.cli.doctor.finding import Finding, Severity
from app.cli.doctor.tunnel import examine_tunnel
from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, LOOPBACK, free_port, start_service
from app.config import read_settings
from tests.service.test_serve import GOOD, serve
from tests.tunnel.install import install
from tests.twilio_rest.account import Account, OwnedNumber
from tests.twilio_rest.server import serving_rest

NUMBER = "+15550100000"


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on PATH, nothing in the home folder."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))


def findings(**settings: object) -> dict[str, Finding]:
    chosen = read_settings(**{"port": free_port(), **settings})
    return {finding.subject: finding for finding in examine_tunnel(chosen, None)}


def token_of(content: object) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


def test_cloudflared_is_named_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{installed.folder}:/bin")
    found = findings()["cloudflared"]
    assert (found.severity, found.found) == (Severity.GOOD, f"2025.9.1 at {installed.program}")


@pytest.mark.parametrize(("tunnel", "severity"), [(False, Severity.NOTE), (True, Severity.PROBLEM)])
def test_without_cloudflared_it_is_said_how_to_install_it(tunnel: bool, severity: Severity) -> None:
    found = findings(tunnel=tunnel)["cloudflared"]
    assert found.severity is severity
    assert "brew install cloudflared" in found.advice


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "#!/no/such/shell\n", "#!/bin/sh\necho hello\n"])
def test_a_cloudflared_that_does_not_run_is_a_problem(tmp_path: Path, script: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cloudflared").write_text(script)
    (tmp_path / "bin" / "cloudflared").chmod(0o755)
    assert findings()["cloudflared"].severity is Severity.PROBLEM


@pytest.mark.parametrize(
    ("token", "severity"),
    [
        (token_of({"a": "account", "t": "tunnel", "s": "secret"}), Severity.GOOD),
        (token_of({"a": "account"}), Severity.PROBLEM),
        ("no-base64!", Severity.PROBLEM),
        (token_of([]), Severity.PROBLEM),
    ],
    ids=["whole", "part", "text", "list"],
)
def test_a_tunnels_token_is_checked_and_never_shown(token: str, severity: Severity) -> None:
    found = findings(tunnel_token=token, public_url="https://phone.example.com")["TUNNEL_TOKEN"]
    assert found.severity is severity
    assert token not in found.found + found.advice


def test_a_named_tunnel_needs_its_public_url_and_credentials_on_this_machine(tmp_path: Path) -> None:
    found = findings(tunnel_name="phone")
    assert (found["tunnel"].severity, found["TUNNEL_NAME"].severity) == (Severity.PROBLEM, Severity.PROBLEM)
    assert "cloudflared tunnel create phone" in found["TUNNEL_NAME"].advice
    (tmp_path / ".cloudflared").mkdir()
    (tmp_path / ".cloudflared" / "0000.json").touch()
    found = findings(tunnel_name="phone", public_url="https://phone.example.com")
    assert found["TUNNEL_NAME"].severity is Severity.GOOD
    assert "tunnel" not in found


def test_without_a_service_nothing_is_sent_out() -> None:
    found = findings(public_url="https://phone.example.com")["self-test"]
    assert (found.severity, found.found.split(":")[0]) == (Severity.NOTE, "not tried")


async def examined(port: int | None, token: str = AUTH_TOKEN, **settings: object) -> dict[str, Finding]:
    """Return all findings while a service runs; the doctor has an event loop of its own."""
    chosen = read_settings(engine="loopback", codec="loopback", port=port, twilio_auth_token=token, **settings)
    return await asyncio.to_thread(lambda: {finding.subject: finding for finding in examine(chosen)})


async def test_a_service_that_runs_is_found_and_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start_service(LOOPBACK, tmp_path / "log") as service:
        port = urlsplit(service.base_url).port
        found = await examined(port)
        assert found["PORT"].found.endswith("moshi-bridge runs there already")
        assert (found["self-test"].severity, found["self-test"].advice) == (
            Severity.NOTE,
            "moshi-bridge serve --tunnel",
        )

        monkeypatch.setattr(doctor_tunnel, "is_loopback", lambda host: False)
        proved = Finding(Severity.GOOD, "self-test", f"a signed socket came back through {service.base_url}")
        assert (await examined(port))["self-test"] == proved
        refused = (await examined(port, "another"))["self-test"]
        assert refused.severity is Severity.PROBLEM
        assert "\n" not in refused.found


@pytest.mark.slow
async def test_the_number_and_the_self_test_use_the_url_of_the_service_that_runs(tmp_path: Path) -> None:
    """A quick tunnel's URL is in no .env: the doctor's settings do not have it. Here it leads nowhere."""
    public = "https://no-such-host.invalid"
    number = OwnedNumber(NUMBER, f"{public}/twilio/voice")
    ours = {"twilio_account_sid": ACCOUNT_SID, "twilio_phone_number": NUMBER}
    async with (
        start_service({**LOOPBACK, "PUBLIC_URL": public}, tmp_path / "log") as service,
        serving_rest(Account(ACCOUNT_SID, AUTH_TOKEN, numbers=[number])) as twilio,
    ):
        port = urlsplit(service.base_url).port
        found = await examined(port, twilio_api_url=twilio.url, **ours)
        number.voice_url = "https://old.example.com/v"
        moved = await examined(port, twilio_api_url=twilio.url, **ours)
    assert public in found["PUBLIC_URL"].found
    assert [found[name].severity for name in ("PUBLIC_URL", "number")] == [Severity.GOOD, Severity.GOOD]
    assert moved["number"].severity is Severity.PROBLEM
    assert found["self-test"].severity is Severity.PROBLEM
    assert f"must lead to http://127.0.0.1:{port}" in found["self-test"].advice


@pytest.mark.slow
async def test_a_service_whose_tunnel_is_not_open_is_a_problem(tmp_path: Path) -> None:
    place, port = install(tmp_path / "bin"), free_port()
    waiting = {**place.environment, "FAKE_UNREADY": "1000000"}
    async with serve(tmp_path, **GOOD, **waiting, TUNNEL="true", PORT=str(port)) as program:
        await program.until("workers are ready")
        found = (await examined(port))["self-test"]
    assert (found.severity, found.found) == (Severity.PROBLEM, "the service runs, but its tunnel is not open")
