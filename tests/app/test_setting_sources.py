"""Where settings come from: the environment and `.env`, plain and prefixed names, quotes around values."""

import re
from pathlib import Path

import pytest

from app.config import NAMES, SettingsError, read_settings
from app.setting_sources import unquoted

SID, TOKEN = "AC" + "0" * 32, "0" * 32
SPELLINGS = (
    *("{}", " {} ", '"{}"', "'{}'", "' {} '", ' "{}"\r', "\t{}\r\n"),
    *("\u00a0{}\u200b", "\ufeff'{}'", "“{}”"),
)
"""How `docker run --env-file`, a file of Windows and a copied web page leave a value; {} stands for it."""
CONDA_HOSTS = ("arm64-apple-darwin20.0.0", "x86_64-conda-linux-gnu")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_prefixed_name_that_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no value of most settings shows which one is read."""
    monkeypatch.setenv(name, "the plain one")
    monkeypatch.setenv(f"MOSHI_BRIDGE_{name}", "the-prefixed-one \u2028 x")
    try:
        answer = str([read_settings().value(each) for each in NAMES])
    except SettingsError as error:
        answer = str(error)
    assert f"MOSHI_BRIDGE_{name} is set in the environment" in answer or "the-prefixed-one" in answer
    assert "the plain one" not in answer


def test_a_prefixed_name_wins_wherever_both_stand(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "x86_64-conda-linux-gnu")
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("SEED", "7")
    env_file.write_text("MOSHI_BRIDGE_HOST=::1\nMOSHI_BRIDGE_PORT=2\nMOSHI_BRIDGE_SEED=\nMAX_CALLS=3\n")
    monkeypatch.setenv("MOSHI_BRIDGE_PORT", "4")
    read = read_settings()
    assert (read.server.host, read.server.port, read.sampling.seed, read.calls.max) == ("::1", 4, None, 3)
    assert read_settings(port=5).server.port == 5


@pytest.mark.parametrize(
    ("environment", "file", "named"),
    [
        ({"PORT": "many"}, "", "(set in the environment; MOSHI_BRIDGE_PORT wins over it)"),
        ({}, "PORT=many", "(set in .env; MOSHI_BRIDGE_PORT wins over it)"),
        ({"MOSHI_BRIDGE_PORT": "many"}, "", "(MOSHI_BRIDGE_PORT is set in the environment)"),
        ({}, "MOSHI_BRIDGE_PORT=many", "(MOSHI_BRIDGE_PORT is set in .env)"),
    ],
)
def test_a_bad_value_is_reported_with_its_place(
    environment: dict[str, str], file: str, named: str, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^PORT: [^\n]*{re.escape(named)}$"):
        read_settings()


@pytest.mark.parametrize("host", CONDA_HOSTS)
def test_a_host_that_conda_exports_is_reported_in_one_line(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", host)
    with pytest.raises(SettingsError) as caught:
        read_settings().require_host()
    named = "set in the environment; MOSHI_BRIDGE_HOST wins over it"
    assert str(caught.value) == f"HOST={host} is no address of this machine ({named})"
    monkeypatch.setenv("MOSHI_BRIDGE_HOST", "127.0.0.1")
    read_settings().require_host()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_quotes_and_space_around_a_value_are_no_part_of_it(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {"TWILIO_ACCOUNT_SID": SID, "TWILIO_AUTH_TOKEN": TOKEN, "PORT": "5007", "TUNNEL": "true"}
    for name, value in written.items():
        monkeypatch.setenv(name, spelling.format(value))
    read = read_settings()
    assert (read.twilio.account_sid, read.twilio.auth_token) == (SID, TOKEN)
    assert (read.server.port, read.tunnel.start) == (5007, True)
    assert read.doubts == {}


@pytest.mark.parametrize("value", ['say "hello"', '"', "''x", '"x', "it's", '"a" and "b'])
def test_what_is_part_of_a_value_stays(value: str) -> None:
    assert unquoted(value) == value


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"twilio_account_sid": "AC12"}, "TWILIO_ACCOUNT_SID"),
        ({"twilio_account_sid": "AC" + "g" * 32}, "TWILIO_ACCOUNT_SID"),
        ({"twilio_auth_token": "the-auth-token"}, "TWILIO_AUTH_TOKEN"),
        ({"twilio_auth_token": SID}, "TWILIO_AUTH_TOKEN"),
        ({"twilio_auth_token_secondary": TOKEN[1:]}, "TWILIO_AUTH_TOKEN_SECONDARY"),
        ({"twilio_phone_number": "0049301234567"}, "TWILIO_PHONE_NUMBER"),
    ],
)
def test_what_can_hardly_be_one_is_doubted_and_not_shown(settings: dict[str, str], name: str) -> None:
    [(named, doubt)] = read_settings(**settings).doubts.items()
    assert named == name
    assert not any(value in doubt for value in settings.values())


@pytest.mark.parametrize(
    "settings",
    [
        {"twilio_account_sid": "SK" + "0" * 32},
        {"twilio_account_sid": "ac" + "0" * 32},
        {"twilio_account_sid": f'"{SID}'},
        {"twilio_account_sid": f"{SID} # the first one"},
        {"twilio_auth_token": f"{TOKEN} # the first one"},
        {"twilio_auth_token": f"'{TOKEN}"},
        {"twilio_auth_token": "tökén"},
        {"twilio_auth_token_secondary": f"{TOKEN}\n{TOKEN}"},
    ],
)
def test_what_can_be_none_is_refused_and_not_shown(settings: dict[str, str]) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(SettingsError, match=f"^{name.upper()}: must be") as caught:
        read_settings(**settings)
    assert value not in str(caught.value)
    assert "\n" not in str(caught.value)
