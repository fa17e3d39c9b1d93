"""What a receiver may answer to `caller.said`: one action, as a JSON object.

`{"say": "…"}`: Moshi says this; `{"transfer": "+15551234567"}`: to whom the settings allow; `{"hangup": true}`.
"""

import json
from dataclasses import dataclass

from app.calls.sentences import clean_sentence

MOST_ANSWER_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class SayAction:
    text: str


@dataclass(frozen=True, slots=True)
class TransferAction:
    to: str


@dataclass(frozen=True, slots=True)
class HangupAction:
    """Hang up once what Moshi has said has been played."""


Action = SayAction | TransferAction | HangupAction


class NoAction(ValueError):
    """The answer is none; the message is one line."""


def parse_answer(body: bytes) -> Action | None:
    """Return the action, None for an empty answer or object. Raises NoAction."""
    if not body.strip():
        return None
    if len(body) > MOST_ANSWER_BYTES:
        raise NoAction(f"it is larger than {MOST_ANSWER_BYTES} bytes")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise NoAction("it is not JSON") from None
    match answer:
        case {"say": str(text), **rest} if not rest:
            return SayAction(_sentence(text))
        case {"transfer": str(to), **rest} if not rest:
            return TransferAction(to[:100])
        case {"hangup": True, **rest} if not rest:
            return HangupAction()
        case {} if isinstance(answer, dict) and not answer:
            return None
    raise NoAction('it is none of {"say": "…"}, {"transfer": "…"}, {"hangup": true}')


def _sentence(text: str) -> str:
    try:
        return clean_sentence(text)
    except ValueError as error:
        raise NoAction(str(error)) from None
