import pytest

from app.http.chat_query import ChatQueryError, parse_chat_query

WEB_CLIENT = {
    "text_temperature": "0.7",
    "text_topk": "25",
    "audio_temperature": "0.8",
    "audio_topk": "250",
    "pad_mult": "0",
    "text_seed": "123456",
    "audio_seed": "654321",
    "repetition_penalty_context": "64",
    "repetition_penalty": "1.0",
}
"""What Kyutai's page appends."""


def test_what_kyutais_page_asks_for() -> None:
    query = parse_chat_query(WEB_CLIENT)
    assert dict(query.sampling) == {
        "text_temperature": 0.7,
        "text_top_k": 25,
        "audio_temperature": 0.8,
        "audio_top_k": 250,
        "repetition_penalty": 1.0,
        "padding_bias": 0.0,
    }
    assert (query.seed, query.format, query.persona) == (123456, "opus", "")


def test_pad_mult_is_a_bias_after_the_temperature() -> None:
    assert dict(parse_chat_query({"pad_mult": "2", "text_temperature": "0.5"}).sampling)["padding_bias"] == 1.0


@pytest.mark.parametrize(
    ("name", "asked", "known_as", "value"),
    [
        ("text_temperature", "0.7", "text_temperature", 0.7),
        ("text_topk", "25", "text_top_k", 25),
        ("audio_temperature", "0", "audio_temperature", 0.0),
        ("audio_topk", "250", "audio_top_k", 250),
        ("repetition_penalty", "1.2", "repetition_penalty", 1.2),
        ("pad_mult", "-1.5", "padding_bias", -1.5),
    ],
)
def test_each_sampling_parameter_alone_changes_what_it_names(
    name: str, asked: str, known_as: str, value: float
) -> None:
    assert dict(parse_chat_query({name: asked}).sampling) == {known_as: value}


@pytest.mark.parametrize(("name", "seed"), [("text_seed", 7), ("audio_seed", 7), ("seed", None), ("max_steps", None)])
def test_either_seed_is_that_of_both_streams_and_nvidias_is_passed_over(name: str, seed: int | None) -> None:
    """On NVIDIA's server `seed` kills the session."""
    query = parse_chat_query({name: "7"})
    assert (query.seed, query.sampling) == (seed, ())


def test_the_length_of_the_penalty_is_understood_and_changes_nothing() -> None:
    assert parse_chat_query({"repetition_penalty_context": "64"}) == parse_chat_query({}).model_copy(
        update={"repetition_penalty_context": 64}
    )
    assert parse_chat_query({"repetition_penalty_context": "64"}).sampling == ()


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_prompt_is_none(text: str) -> None:
    """On NVIDIA's server it kills the session."""
    query = parse_chat_query({"text_prompt": text, "voice_prompt": text})
    assert (query.text_prompt, query.voice_prompt) == ("", "")


def test_prompts_are_text_and_the_name_of_a_voice() -> None:
    query = parse_chat_query({"text_prompt": " You are\x00 Eve.\n", "voice_prompt": "NATF0.pt"})
    assert (query.text_prompt, query.voice_prompt) == ("You are Eve.", "NATF0.pt")


def test_nothing_asked_for_changes_nothing_and_unknown_names_are_passed_over() -> None:
    query = parse_chat_query({"worker_addr": "gpu:8998", "max_steps": "9", "token": "t", "voice_prompt": ""})
    assert (query.sampling, query.seed) == ((), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("text_temperature", value) for value in ("", "hot", "-1", "6", "nan", "inf", "1e999")],
        *[("audio_topk", value) for value in ("0", "2049", "1.5", "1\n2")],
        *[("pad_mult", "nan"), ("text_seed", "-1"), ("audio_seed", "4294967296"), ("repetition_penalty", "0")],
        *[("format", "wav"), ("persona", "x" * 41), ("text_prompt", "x" * 4_001), ("text_prompt", "\x00")],
        *[("repetition_penalty_context", "-1"), ("voice_prompt", "x" * 81)],
        *[("voice_prompt", f"{path}passwd") for path in ("../../etc/", "/etc/", "..", ".", "a/", "\x00", "~/")],
    ],
)
def test_a_bad_value_is_one_line_that_names_it_and_does_not_repeat_it(name: str, value: str) -> None:
    with pytest.raises(ChatQueryError) as refused:
        parse_chat_query({name: value})
    said = str(refused.value)
    assert name in said
    assert "\n" not in said
    assert "passwd" not in said
