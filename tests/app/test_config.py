from pathlib import Path

import pytest

from app.config import FIELDS, CodecKind, EngineKind, SettingsError, is_loopback, read_settings
from app.server.assembly import worker_config

PUBLIC = "https://phone.example.com"
NUMBER = {"set_number": True, "tunnel": True, "twilio_account_sid": "AC1", "twilio_auth_token": "secret"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"port": 0}, "PORT"),
        ({"port": "many"}, "PORT"),
        ({"max_calls": 0}, "MAX_CALLS"),
        ({"max_call_seconds": 9}, "MAX_CALL_SECONDS"),
        ({"greeting_frames": 126}, "GREETING_FRAMES"),
        ({"moshi_quantize": "5"}, "MOSHI_QUANTIZE"),
        *(({"transcribe": text}, "TRANSCRIBE: must name a checkpoint") for text in ("true", "On", "0")),
        ({"engine": "llama"}, "ENGINE"),
        ({"codec": "mp3"}, "CODEC"),
        ({"codec": "loopback"}, "CODEC=loopback needs ENGINE=loopback"),
        ({"public_url": "phone"}, "^PUBLIC_URL: must be http"),
        ({"public_url": "ftp://phone.example.com"}, "PUBLIC_URL"),
        ({"public_url": "https://phone.example.com/?a=b"}, "PUBLIC_URL"),
        ({"public_url": "https://phone.example.com:99999"}, "PUBLIC_URL"),
        ({"public_url": "https://phone.example.com:abc"}, "PUBLIC_URL"),
        ({"public_url": "http://[::1"}, "PUBLIC_URL"),
        ({"public_url": f"{PUBLIC}/twilio/voice"}, "PUBLIC_URL: must end before /twilio/voice"),
        ({"public_url": f"{PUBLIC}/prefix/twilio/voice/"}, "PUBLIC_URL: must end before /twilio/voice"),
        ({**NUMBER}, "SET_NUMBER needs TWILIO_PHONE_NUMBER"),
        ({**NUMBER, "twilio_phone_number": "5551234567"}, "TWILIO_PHONE_NUMBER with .* country code"),
        ({**NUMBER, "twilio_phone_number": "+1555123456\u0667"}, "TWILIO_PHONE_NUMBER with .* country code"),
        ({**NUMBER, "twilio_phone_number": "+15551234567", "tunnel": False}, "SET_NUMBER needs TUNNEL=true"),
        ({"tunnel": True, "tunnel_name": "phone"}, "PUBLIC_URL must say where the tunnel"),
        ({"when_busy": "sing"}, "WHEN_BUSY"),
        ({"blocked_callers": "+1555*,0049"}, "BLOCKED_CALLERS.*'0049' is no number"),
        ({"allowed_callers": "+155x"}, "ALLOWED_CALLERS"),
        *(
            ({name: "~recordings"}, f"{name.upper()}: .*write ~/")
            for name in ("recordings_dir", "personas_dir", "cache_dir")
        ),
        ({"operator_token": "short"}, "OPERATOR_TOKEN"),
        ({"operator_token": "with a space in it"}, "OPERATOR_TOKEN"),
        ({"operator_token": "1" * 16, "chat_token": "1" * 16}, "CHAT_TOKEN and OPERATOR_TOKEN are the same"),
        *(({"hangup_digit": digits}, "HANGUP_DIGIT") for digits in ("##", "x", "E", "10")),
        *(({"traces_headers": fields}, "TRACES_HEADERS") for fields in ("Name", "Bad name=1", "X-A=1\r\nX-B=2")),
    ],
)
def test_a_bad_setting_is_named_in_one_line(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        read_settings(**wrong)
    assert "\n" not in str(caught.value)


def test_every_bad_setting_has_its_line() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(port=0, max_calls=0)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["PORT", "MAX_CALLS"]


@pytest.mark.parametrize(("max_calls", "slots"), [("auto", 0), ("3", 3), (3, 3)])
def test_how_many_calls_may_be_left_to_the_engine(max_calls: object, slots: int) -> None:
    assert read_settings(max_calls=max_calls).calls.slots == slots


def test_the_environment_goes_before_the_file_and_an_option_before_both(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("PORT=1001\nMAX_CALLS=2\nENGINE=loopback\n")
    monkeypatch.setenv("PORT", "1002")
    settings = read_settings(engine="mlx", host=None)
    assert (settings.server.port, settings.calls.max, settings.model.engine) == (1002, 2, EngineKind.MLX)


def test_a_file_in_another_encoding_is_named(env_file: Path) -> None:
    env_file.write_bytes("PORT=1001".encode("utf-16"))
    with pytest.raises(SettingsError, match=r"\.env"):
        read_settings()


@pytest.mark.parametrize("digit", ["#", "*", "0", "D", ""])
def test_the_key_that_ends_a_call_can_be_set_in_a_file(env_file: Path, digit: str) -> None:
    """A # begins a comment only where a space is before it."""
    env_file.write_text(f"HANGUP_DIGIT={digit}\n")
    assert read_settings().calls.hangup_digit == digit


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"public_url": PUBLIC}, "TWILIO_AUTH_TOKEN is not set"),
        ({"tunnel": True}, "TWILIO_AUTH_TOKEN is not set, but a tunnel can be reached from outside"),
        (
            {"tunnel": True, "twilio_auth_token": "secret", "validate_signatures": False},
            "VALIDATE_SIGNATURES is false, but a tunnel",
        ),
        ({"public_url": PUBLIC, "twilio_auth_token": "secret", "validate_signatures": False}, "VALIDATE_SIGNATURES"),
        ({"host": "0.0.0.0"}, "HOST=0.0.0.0|PUBLIC_URL=0.0.0.0"),
        ({"host": "192.168.1.5", "public_url": "http://127.0.0.1:5001"}, "HOST=192.168.1.5"),
    ],
)
def test_other_machines_may_not_place_unsigned_calls(settings: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read_settings(**settings).require_safe()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"public_url": PUBLIC, "twilio_auth_token": "secret"},
        {"public_url": PUBLIC, "twilio_auth_token_secondary": "secret"},
        {"host": "0.0.0.0", "twilio_auth_token": "secret"},
        {"host": "localhost"},
        {"host": "::1"},
        {"public_url": "http://127.0.0.1:9000"},
    ],
)
def test_signed_calls_and_calls_from_this_machine_are_safe(settings: dict[str, object]) -> None:
    read_settings(**settings).require_safe()


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:5001"),
        ({"host": "::1", "port": 80}, "http://[::1]:80"),
        ({"public_url": f"{PUBLIC}/phone/"}, f"{PUBLIC}/phone"),
    ],
)
def test_the_base_url_is_the_public_one_or_the_listen_address(settings: dict[str, object], url: str) -> None:
    assert read_settings(**settings).server.base_url == url


CLUSTER = {
    "nats_url": "nats://127.0.0.1:4222",
    "node_url": "https://node-1.example.com",
    "public_url": PUBLIC,
    "twilio_account_sid": "AC" + "0" * 32,
    "twilio_auth_token": "secret",
}


def test_no_node_restores_the_number_of_all() -> None:
    with pytest.raises(SettingsError, match="SET_NUMBER is for one machine alone"):
        read_settings(**CLUSTER, set_number=True, twilio_phone_number="+15551234567")


@pytest.mark.parametrize("missing", ["node_url", "public_url", "twilio_account_sid", "twilio_auth_token"])
def test_nodes_need_what_they_share_and_an_address_of_their_own(missing: str) -> None:
    with pytest.raises(SettingsError, match=f"NATS_URL needs {missing.upper()}"):
        read_settings(**{**CLUSTER, missing: ""})


@pytest.mark.parametrize(
    "url",
    [
        "nats://",
        "http://127.0.0.1:4222",
        "nats://a:1,b:2",
        "nats://a:x",
        "nats://a/path",
        "nats://a?password=x",
        "tls://a?tls=last",
        ",",
        "nats://10.0.0.2:4222",
    ],
)
def test_a_wrong_address_of_nats_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="NATS_URL"):
        read_settings(**{**CLUSTER, "nats_url": url})


@pytest.mark.parametrize("name", [name.lower() for name, field in FIELDS.items() if not field.repr])
def test_secrets_are_known_and_not_shown(name: str) -> None:
    value = {
        "database_url": "postgresql://me:the-password@db/calls",
        "moshi_servers": "wss://gpu:8998?token=the-password",
        "traces_headers": "X-Key=the-password",
        "nats_url": "tls://one:4222,tls://me:the-password@two:4222?ca=/ca.pem&tls=first",
    }
    secret = value.get(name, "the-password-of-this")
    read = read_settings(**{**(CLUSTER if name == "nats_url" else {}), name: secret})
    assert any(one in secret and len(one) > 8 for one in read.secrets)
    assert "the-password" not in repr(read)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("public_url", "https://me:the%2Fpassword@phone.example.com"),
        ("twilio_api_url", "https://me:the%2Fpassword@api.example.com"),
        ("traces_endpoint", "https://me:the%2Fpassword@traces.example.com/v1/traces"),
        ("database_url", "postgresql://me:the%2Fpassword@db.example.com/calls"),
        ("database_url", "postgresql://me:the%2Fpass,word@db.example.com/calls"),
        ("database_url", "postgresql://db.example.com/calls?user=me&password=the%2Fpassword&sslmode=require"),
    ],
)
def test_the_password_in_a_url_is_a_secret_and_the_url_is_none(name: str, url: str) -> None:
    hidden = {secret.replace(",", "") for secret in read_settings(**{name: url}).secrets}
    assert hidden == {"the%2Fpassword", "the/password"}


def test_headers_of_traces_are_read_by_name_and_are_secrets() -> None:
    read = read_settings(traces_headers="Authorization=Bearer a=b, X-Org=tenant-one")
    assert read.traces.header_fields == {"Authorization": "Bearer a=b", "X-Org": "tenant-one"}
    assert "Bearer a=b" in read.secrets


def test_callers_are_transcribed_only_if_a_checkpoint_is_named_and_never_in_the_line_test() -> None:
    for off in ("off", ""):
        assert worker_config(read_settings(transcribe=off)).transcribe == ""
    assert worker_config(read_settings()).transcribe == ""
    spec = "hf://kyutai/stt-1b-en_fr-mlx"
    assert worker_config(read_settings(transcribe=spec)).transcribe == spec
    assert worker_config(read_settings(transcribe=spec, engine="loopback", codec="loopback")).transcribe == ""


def test_the_loopback_engine_has_no_greeting() -> None:
    assert read_settings(engine="loopback").greeting_steps == 0
    assert read_settings(greeting_frames=7).greeting_steps == 7


LOOPBACK = ("localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")
OTHERS = ("", "0.0.0.0", "::", "::ffff:203.0.113.5", "example.com", "localhost.example.com", "127.0.0.1.example.com")


@pytest.mark.parametrize("host", [*LOOPBACK, *OTHERS])
def test_what_is_this_machine_alone(host: str) -> None:
    assert is_loopback(host) is (host in LOOPBACK)


def test_the_former_name_of_rustymimi_still_works_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("mimi", "rustymimi"):
        assert read_settings(codec=name).model.codec is CodecKind.RUSTYMIMI
    assert [record.getMessage() for record in caplog.records] == [
        "CODEC=mimi is called rustymimi now: write CODEC=rustymimi"
    ]
