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


def test_nothing_asked_for_changes_nothing_and_unknown_names_are_passed_over() -> None:
    query = parse_chat_query({"worker_addr": "gpu:8998", "max_steps": "9", "token": "t", "voice_prompt": ""})
    assert (query.sampling, query.seed) == ((), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("text_temperature", value) for value in ("", "hot", "-1", "6", "nan", "inf", "1e999")],
        *[("audio_topk", value) for value in ("0", "2049", "1.5", "1\n2")],
        *[("pad_mult", "nan"), ("text_seed", "-1"), ("audio_seed", "4294967296"), ("repetition_penalty", "0")],
        *[("format", "wav"), ("persona", "x" * 41), ("text_prompt", "Be rude"), ("voice_prompt", "../../etc/passwd")],
    ],
)
def test_a_bad_value_is_one_line_that_names_it_and_does_not_repeat_it(name: str, value: str) -> None:
    with pytest.raises(ChatQueryError) as refused:
        parse_chat_query({name: value})
    said = str(refused.value)
    assert name in said
    assert "\n" not in said
    assert "passwd" not in said
