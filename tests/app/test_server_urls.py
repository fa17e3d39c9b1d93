"""The list of Moshi servers in the settings."""

import pytest

from app.config import SettingsError, read_settings
from app.server_urls import ServerUrl, parse_servers


def test_a_server_has_one_session_unless_its_url_says_more() -> None:
    one, two = parse_servers("wss://gpu1:8998, https://gpu2/moshi/?sessions=4&format=pcm&token=abc#sha256=" + "a" * 64)
    assert (one.url, one.sessions, one.personaplex) == ("wss://gpu1:8998/api/chat", 1, False)
    assert (two.url, two.shown) == ("wss://gpu2/moshi/?format=pcm", "wss://gpu2/moshi/")
    assert (two.sessions, two.token, two.pin, two.ca) == (4, "abc", "a" * 64, None)


def test_personaplex_and_an_authority_of_ones_own() -> None:
    (server,) = parse_servers("wss://gpu?kind=personaplex&voice_prompt=NATM1.pt#ca=/etc/ca.pem")
    assert server.personaplex
    assert server.query == {"voice_prompt": "NATM1.pt"}
    assert str(server.ca) == "/etc/ca.pem"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("gpu1:8998", "server 1: is no address"),
        ("wss://gpu1,ftp://gpu2", "server 2: is no address"),
        ("wss://gpu1?sessions=0", "sessions is a number from 1 to 256"),
        ("wss://gpu1?sessions=many", "sessions is a number from 1 to 256"),
        ("wss://gpu1?kind=rust", "kind may be personaplex"),
        ("wss://gpu1,wss://gpu1?sessions=2", "server 2 is there twice"),
        ("ws://gpu1?token=hush", "wss:// only"),
        ("ws://me:hush@gpu1", "wss:// only"),
        ("wss://me:hush@gpu1?token=hush", "only one of them"),
        ("ws://gpu1#sha256=" + "0" * 64, "are for wss://"),
        ("wss://gpu1#sha256=12", "64 hexadecimal digits"),
        ("wss://gpu1#pin=12", "after # comes"),
        ("wss://gpu1#ca=", "after # comes"),
    ],
)
def test_what_is_wrong_is_one_line_without_a_secret(wrong: str, why: str) -> None:
    with pytest.raises(SettingsError, match=r"\AMOSHI_SERVERS: [^\n]+\Z") as raised:
        read_settings(engine="remote", moshi_servers=wrong)
    assert why in str(raised.value)
    assert "hush" not in str(raised.value)


def test_remote_needs_servers() -> None:
    with pytest.raises(SettingsError, match="ENGINE=remote needs MOSHI_SERVERS"):
        read_settings(engine="remote")


def test_tokens_and_passwords_are_secrets_and_not_shown() -> None:
    read = read_settings(engine="remote", moshi_servers="wss://me:a%2Fb@gpu1,wss://gpu2?token=the-token")
    assert {"a%2Fb", "a/b", "the-token"} <= set(read.secrets)
    for secret in ("a%2Fb", "the-token"):
        assert secret not in repr(read)
        assert secret not in repr(read.model.servers)


def test_a_remote_moshi_is_not_fed_silence_before_the_caller_speaks() -> None:
    assert read_settings(engine="remote", moshi_servers="wss://gpu").greeting_steps == 0


def test_the_sessions_of_all_servers_are_the_calls_at_once() -> None:
    servers = "wss://gpu1?sessions=4,wss://gpu2"
    assert read_settings(engine="remote", moshi_servers=servers, max_calls=2).slots == 5
    assert read_settings(moshi_servers=servers, max_calls=2).slots == 2


def test_a_token_to_this_machine_needs_no_tls() -> None:
    assert parse_servers("ws://127.0.0.1:8998?token=abc") == (
        ServerUrl("ws://127.0.0.1:8998/api/chat", "ws://127.0.0.1:8998/api/chat", token="abc"),
    )
