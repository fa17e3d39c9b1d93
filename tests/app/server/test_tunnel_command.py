from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings, SettingsError, read_settings
from app.server.tunnel_command import find_cloudflared, tunnel_command, tunnel_environment, url_of
from app.twilio.signature import SignatureCheck, sign

PUBLIC, TOKEN = "https://phone.example.com", "the-auth-token"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def tunnel(**settings: object) -> Settings:
    return read_settings(tunnel=True, twilio_auth_token=TOKEN, **settings)


def test_a_quick_tunnel_leads_to_host_and_port() -> None:
    where = ["--config", "/dev/null", "--url", "http://127.0.0.1:5007"]
    assert tunnel_command(tunnel(port=5007), "cloudflared", 6000) == (
        ["cloudflared", "tunnel", *where, "--no-autoupdate", "--metrics", "127.0.0.1:6000"]
    )


def test_a_named_tunnel_keeps_its_operators_configuration() -> None:
    named = tunnel_command(tunnel(tunnel_name="phone", public_url=PUBLIC), "cloudflared", 6000)
    assert "--config" not in named


def test_a_named_tunnel_is_run_by_its_name() -> None:
    command = tunnel_command(tunnel(tunnel_name="phone", public_url=PUBLIC), "cloudflared", 6000)
    assert command[-4:] == ["run", "--url", "http://127.0.0.1:5001", "phone"]


def test_a_tunnels_token_is_in_the_environment_and_never_on_the_command_line() -> None:
    settings = tunnel(tunnel_token="a-secret", public_url=PUBLIC)
    assert "a-secret" not in " ".join(tunnel_command(settings, "cloudflared", 6000))
    assert tunnel_environment(settings, {}) == {"TUNNEL_TOKEN": "a-secret"}


def test_cloudflared_learns_nothing_of_our_settings_and_takes_no_options_from_the_shell() -> None:
    shell = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy",
        "TWILIO_AUTH_TOKEN": TOKEN,
        "TUNNEL_NAME": "x",
        "TUNNEL_URL": "y",
        "TUNNEL_CONFIG": "/home/me/another.yml",
        "tunnel_hostname": "another.example.com",
        "MOSHI_BRIDGE_TWILIO_AUTH_TOKEN": TOKEN,
        "MOSHI_BRIDGE_PORT": "5002",
    }
    assert tunnel_environment(tunnel(), shell) == {"PATH": "/bin", "HTTPS_PROXY": "http://proxy"}


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:5001"), ("::", "http://[::1]:5001"), ("10.0.0.7", "http://10.0.0.7:5001")],
)
def test_the_tunnel_reaches_whatever_address_is_listened_on(host: str, url: str) -> None:
    command = tunnel_command(tunnel(host=host), "cloudflared", 6000)
    assert command[command.index("--url") + 1] == url


def test_without_cloudflared_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="brew install cloudflared") as caught:
        find_cloudflared()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hostname", "url"),
    [
        ("calm-river.trycloudflare.com", "https://calm-river.trycloudflare.com"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        *(
            (nothing, None)
            for nothing in ("", None, 7, ["a.b"], "a b", "a/b", "a@b", "host:", "host:99999", "-a", "A.B")
        ),
    ],
)
def test_a_host_name_becomes_a_url_and_anything_else_does_not(hostname: object, url: str | None) -> None:
    assert url_of(hostname) == url


@given(st.text() | st.from_regex(r"[a-z0-9.:-]{1,30}"))
def test_whatever_is_taken_for_a_host_name_can_be_signed_for(hostname: str) -> None:
    if url := url_of(hostname):
        assert SignatureCheck(url, [TOKEN]).webhook_valid("/voice", (), sign(TOKEN, f"{url}/voice"))
