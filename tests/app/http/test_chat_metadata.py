"""The metadata of a chat against the schema of Kyutai's web client (`useServerInfo.ts`)."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.calls.active_call import ActiveCall
from app.calls.record import CallRecord, StreamRecord
from app.http.chat_metadata import make_metadata
from app.http.chat_query import parse_chat_query
from app.twilio.events import CallSid

NUMBERS = (
    *("text_temperature", "text_topk", "audio_temperature", "audio_topk", "pad_mult"),
    *("repetition_penalty_context", "repetition_penalty"),
)
TEXTS = ("lm_model_file", "instance_name")
BUILD = (
    *("build_timestamp", "build_date", "git_branch", "git_timestamp", "git_date", "git_hash", "git_describe"),
    *("rustc_host_triple", "rustc_version", "cargo_target_triple"),
)
DEFAULT = (
    *(("text_temperature", 0.7), ("text_top_k", 25), ("audio_temperature", 0.8), ("audio_top_k", 250)),
    *(("repetition_penalty", 1.0), ("padding_bias", 0.0), ("repetition_penalty_context", 30)),
)


def metadata(asked: dict[str, str], default: tuple[tuple[str, float], ...] = DEFAULT) -> dict[str, Any]:
    query = parse_chat_query(asked)
    session = SimpleNamespace(record=CallRecord(CallSid("chat-1"), 0.0), stream=StreamRecord(1, 0.0))
    call = cast(ActiveCall, SimpleNamespace(session=session, sampling=query.sampling))
    made: dict[str, Any] = json.loads(json.dumps(make_metadata(call, query, default, "a-checkpoint")))
    return made


@pytest.mark.parametrize("asked", [{}, {"text_temperature": "0", "pad_mult": "2"}], ids=str)
@pytest.mark.parametrize("default", [DEFAULT, ()], ids=["moshi", "line test"])
def test_it_satisfies_the_web_client(asked: dict[str, str], default: tuple[tuple[str, float], ...]) -> None:
    found = metadata(asked, default)
    assert all(type(found[name]) in (int, float) for name in NUMBERS)
    assert all(isinstance(found[name], str) for name in TEXTS)
    assert all(isinstance(found["build_info"][name], str) for name in BUILD)


def test_without_a_wish_it_is_what_the_engine_does() -> None:
    found = metadata({})
    assert [found[name] for name in NUMBERS] == [0.7, 25, 0.8, 250, 0, 30, 1.0]
    assert found["lm_model_file"] == "a-checkpoint"


def test_it_has_what_was_asked_for_as_far_as_the_engine_goes() -> None:
    """The engine's graphs are made for its own top_k, at most."""
    asked = {
        "text_temperature": "0.5",
        "text_topk": "40",
        "audio_topk": "100",
        "pad_mult": "2",
        "repetition_penalty": "2",
    }
    found = metadata(asked)
    assert [found[name] for name in NUMBERS] == [0.5, 25, 0.8, 100, 2, 30, 2.0]


def test_a_line_test_samples_nothing_whatever_is_asked_for() -> None:
    assert not any(metadata({"text_temperature": "0.5", "text_topk": "9"}, ())[name] for name in NUMBERS)
