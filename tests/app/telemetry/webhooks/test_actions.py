import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.webhooks.actions import HangupAction, NoAction, SayAction, TransferAction, parse_answer


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        (b"", None),
        (b" \n", None),
        (b"{}", None),
        (b'{"say": " Good  morning! "}', SayAction("Good morning!")),
        (b'{"transfer": "+15551234567"}', TransferAction("+15551234567")),
        (b'{"hangup": true}', HangupAction()),
    ],
)
def test_an_answer_has_one_action(answer: bytes, action: object) -> None:
    assert parse_answer(answer) == action


@pytest.mark.parametrize(
    "answer",
    [
        b"OK",
        b"[]",
        b"\xff",
        b'{"say": ""}',
        b'{"say": 1}',
        b'{"hangup": 1}',
        b'{"say": "a", "hangup": true}',
        b"[" * 5_000,
        b'{"say": "' + b"a" * 20_000 + b'"}',
    ],
    ids=lambda answer: repr(answer[:20]),
)
def test_all_else_is_no_action(answer: bytes) -> None:
    with pytest.raises(NoAction):
        parse_answer(answer)


@given(st.binary(max_size=60))
def test_no_answer_raises_anything_else(answer: bytes) -> None:
    with contextlib.suppress(NoAction):
        parse_answer(answer)
