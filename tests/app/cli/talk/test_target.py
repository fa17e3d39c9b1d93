"""Where a conversation goes, and what is sent along."""

from pathlib import Path

import pytest

from app.cli.talk.target import Wanted, find_target
from app.config import Settings, read_settings
from app.server.remote.query import personaplex_query
from app.server_urls import chat_url


def settings(**values: object) -> Settings:
    return read_settings(**values)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("wss://gpu:8998", "wss://gpu:8998/api/chat"),
        ("wss://gpu:8998/", "wss://gpu:8998/api/chat"),
        ("https://gpu", "wss://gpu/api/chat"),
        ("http://[::1]:5001", "ws://[::1]:5001/api/chat"),
        ("ws://gpu/moshi/api/chat#x", "ws://gpu/moshi/api/chat"),
        (
            "ws://gpu?voice_prompt=NATF0.pt&text_prompt=Be+kind.",
            "ws://gpu/api/chat?voice_prompt=NATF0.pt&text_prompt=Be+kind.",
        ),
    ],
)
def test_the_path_is_added_and_what_is_given_stays(given: str, url: str) -> None:
    assert chat_url(given, {})[0] == url


@pytest.mark.parametrize("given", ["gpu:8998", "ftp://gpu", "wss://", "wss://gpu:99999", "", "wss://[::1"])
def test_what_is_no_address_of_a_server(given: str) -> None:
    with pytest.raises(ValueError, match="Moshi server"):
        chat_url(given, {})


def test_by_default_it_is_the_service_here_as_its_operator() -> None:
    target = find_target(settings(port=5002, operator_token="o" * 32), Wanted(persona="ada"))
    assert target.url == "ws://127.0.0.1:5002/api/chat?persona=ada"
    assert target.headers == {"Authorization": f"Bearer {'o' * 32}"}
    assert target.address == ("127.0.0.1", 5002)


def test_another_server_gets_only_the_token_that_is_given() -> None:
    ours = settings(operator_token="o" * 32)
    assert find_target(ours, Wanted("wss://gpu")).headers == {}
    assert find_target(ours, Wanted("wss://gpu", token="secret")).headers == {"Authorization": "Bearer secret"}


def test_a_token_goes_to_another_machine_by_tls_only() -> None:
    with pytest.raises(ValueError, match="wss://"):
        find_target(settings(), Wanted("ws://gpu:8998", token="secret"))
    assert find_target(settings(), Wanted("ws://127.0.0.1:8998", token="secret")).headers


def test_neither_token_nor_password_nor_prompt_is_shown() -> None:
    wanted = Wanted("wss://me:hush@gpu?text_prompt=private", token="secret")
    target = find_target(settings(), wanted)
    assert target.shown == "wss://gpu/api/chat"
    for secret in ("hush", "secret", "private"):
        assert secret not in repr(target)
    assert "secret" not in repr(wanted)


def test_a_persona_of_this_machine_becomes_what_personaplex_wants(tmp_path: Path) -> None:
    (tmp_path / "ada.toml").write_text('prompt = "You are Ada."\n')
    ours = settings(personas_dir=str(tmp_path))
    url = find_target(ours, Wanted("wss://gpu", persona="ada")).url
    assert url.endswith("?persona=ada&voice_prompt=NATF0.pt&text_prompt=You+are+Ada.")
    assert find_target(ours, Wanted("wss://gpu", persona="bob")).url.endswith("?persona=bob")
    assert find_target(ours, Wanted(persona="ada")).url.endswith("?persona=ada")


def test_personaplex_gets_both_parameters_and_neither_is_empty() -> None:
    plain = personaplex_query("", "")
    assert plain.keys() == {"voice_prompt", "text_prompt"}
    assert all(plain.values())
    assert personaplex_query("", "VARM4")["voice_prompt"] == "VARM4.pt"
    with pytest.raises(ValueError, match="recording"):
        personaplex_query("", "ada.wav")


@pytest.mark.parametrize("wanted", [Wanted("ws://gpu", pin="0" * 64), Wanted("ws://gpu", ca=Path("ca.pem"))])
def test_pin_and_authority_are_for_tls(wanted: Wanted) -> None:
    with pytest.raises(ValueError, match="--pin"):
        find_target(settings(), wanted)
