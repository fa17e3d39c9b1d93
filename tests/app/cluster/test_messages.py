"""Messages between nodes: sealed, checked, and understood by the version before and after."""

import json
import random
import typing

import pytest

from app.cluster import messages
from app.cluster.messages import FRESH_S, AnyMessage, Heartbeat, Hook, NodeMessage, PlaceRequest, node_name, parse
from app.cluster.seal import SEAL_BYTES, Seal
from tests.app.cluster.nodes import heartbeat, sid

KINDS = [one for one in vars(messages).values() if isinstance(one, type) and issubclass(one, NodeMessage)]


def test_a_message_comes_back_as_it_was() -> None:
    sent = PlaceRequest(
        call=sid(1),
        form={"From": "+15550100001", "AddOns": "x" * 60_000},
        query="?persona=ada",
        hook=Hook.AFTER_STREAM,
        epoch=5,
    )
    assert parse(PlaceRequest, sent.to_bytes()) == sent
    assert parse(Heartbeat, heartbeat("a", calls={"CA1": 3}).to_bytes()) == heartbeat("a", calls={"CA1": 3})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_later_version_may_add_fields_and_an_earlier_one_lacks_those_with_defaults(kind: type[AnyMessage]) -> None:
    needed = {name: example(field.annotation) for name, field in kind.model_fields.items() if field.is_required()}
    earlier, later = needed, {**needed, "v": 2, "added": {"x": [1]}}
    one, other = parse(kind, json.dumps(earlier).encode()), parse(kind, json.dumps(later).encode())
    assert one is not None
    assert other is not None
    assert other.model_copy(update={"v": 1}) == one


def example(kind: object) -> object:
    """Return a value for a required field."""
    examples: dict[object, object] = {int: 1, float: 1.5}
    if kind in examples:
        return examples[kind]
    return {} if typing.get_origin(kind) is dict else "CA1"


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'{"call": 1}', b'{"call": "a b"}', b'{"call": ""}', b"\xff", b"[" * 200_000,
     b'{"call": "CA1\\n"}', b'{"call": "' + b"A" * 65 + b'"}', b'{"call": "CA1", "v": 0}', b'{"call": "CA1", "v": "1"}',
     ],
)  # fmt: skip
def test_what_is_no_message_is_none(body: bytes) -> None:
    assert parse(messages.Ask, body) is None


def test_a_message_is_good_while_it_is_fresh_and_a_heartbeat_on_its_node_s_subject() -> None:
    request = PlaceRequest(call=sid(1), form={}, sent_s=1_000.0)
    moments = (1_000.0 - FRESH_S - 1, 1_000.0 - FRESH_S, 1_000.0 + FRESH_S, 1_000.0 + FRESH_S + 1)
    assert [request.fits("slots.take.a", now_s) for now_s in moments] == [False, True, True, False]
    assert [heartbeat("a").fits(subject, 1_000.0) for subject in ("hb.a", "hb.b", "a")] == [True, False, False]


def test_a_seal_opens_with_the_key_of_the_account_for_its_subject_alone() -> None:
    seal, other, rotated = Seal(["one"]), Seal(["two"]), Seal(["two", "one"])
    closed = seal.close("hb.a", b"body")
    assert [one.open("hb.a", closed) for one in (seal, rotated, other)] == [b"body", b"body", None]
    assert [seal.open("hb.b", closed), seal.open("hb.a", closed[:-1]), seal.open("hb.a", b"")] == [None] * 3
    assert seal.open("a", seal.close("ab", b"c")) is None
    with pytest.raises(ValueError, match="empty"):
        Seal([""])


def test_every_flipped_bit_breaks_the_seal() -> None:
    seal = Seal(["one"])
    closed = seal.close("s", b"x")
    for bit in range(8 * (SEAL_BYTES + 1)):
        broken = bytearray(closed)
        broken[bit // 8] ^= 1 << bit % 8
        assert seal.open("s", bytes(broken)) is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://moshi-0.example.com", "moshi-0-example-com"),
        ("http://127.0.0.1:5001", "127-0-0-1-5001"),
        ("https://me:secret@a.example.com/prefix", "a-example-com"),
        ("http://[::1]:5001", "---1--5001"),
    ],
)
def test_a_node_is_named_after_its_url(url: str, name: str) -> None:
    assert node_name(url) == name


def mutated(body: bytes, chance: random.Random) -> bytes:
    """Return a message with some bytes changed, cut out, doubled or put in."""
    changed = bytearray(body)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[at:at] = chance.randbytes(chance.randint(1, 4))
            case 1:
                del changed[at : at + chance.randint(1, 10)]
            case 2:
                changed[at:at] = changed[at : at + 20]
            case _:
                changed[at : at + 1] = chance.choice([b"0", b'"', b"{", b"-1", b"1e999", b"null", b"NaN", b"\xff"])
    return bytes(changed)


def test_20000_generated_messages_raise_nothing() -> None:
    chance, bodies = (
        random.Random(15),
        [heartbeat("a", calls={"CA1": 3}).to_bytes(), PlaceRequest(call=sid(1), form={"a": "b"}).to_bytes()],
    )
    for _ in range(20_000):
        kind = chance.choice(KINDS)
        body = mutated(chance.choice(bodies), chance)
        read = parse(kind, body)
        assert read is None or isinstance(read, kind)
