"""Sentences that Moshi is told to say: on a session alone, and on a manager whose workers are a list."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.calls.active_call import ActiveCall, QueuedSentence
from app.calls.end_reason import EndReason
from app.calls.limits import CallLimits
from app.calls.sentences import (
    MAX_CHARACTERS,
    MAX_QUEUED,
    SayRefusal,
    SayRefused,
    SaySentence,
    SentenceSaid,
    clean_sentence,
)
from app.calls.session import CallSession, CallState
from app.twilio.events import Started, Stopped, StreamSid
from tests.app.calls.front import ANN, BOB, Front
from workers.messages import Epoch, Said, Say, Slot

SLOT, EPOCH = Slot(0), Epoch(1)


def session(state: CallState = CallState.LIVE) -> CallSession:
    """A session that has come so far."""
    one = CallSession(ANN, "", CallLimits(0, 20.0, 600.0, 0.0), 0.0)
    if state in (CallState.CONNECTED, CallState.LIVE, CallState.DRAINING):
        one.on_socket_open(1.0)
    if state in (CallState.LIVE, CallState.DRAINING):
        one.receive(Started(StreamSid("MZ1"), ANN, "AC1"), 2.0)
    if state is CallState.DRAINING:
        one.record.first_sound_s = 2.0
        one.drain(EndReason.OPERATOR, 3.0)
    if state is CallState.ENDED:
        one.end(EndReason.CALLER_HUNG_UP, 3.0)
    assert one.state is state
    return one


def said(sentence: int, whole: bool = True) -> Said:
    return Said(SLOT, EPOCH, sentence, whole)


def refusal(one: CallSession | ActiveCall, text: str = "no") -> SayRefusal:
    with pytest.raises(SayRefused) as refused:
        one.say(text)
    return refused.value.reason


# The text.


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Hello", "Hello"),
        ("  One\r\n two\t three\u2028four  ", "One two three four"),
        ("\x00a\x1b[2J\u202eb\u200b", "a[2Jb"),
        ("half a \ud83d pair", "half a  pair"),
        ("Grüße, 世界 🎉 42 %", "Grüße, 世界 🎉 42 %"),
        ("x" * MAX_CHARACTERS, "x" * MAX_CHARACTERS),
    ],
)
def test_a_text_becomes_one_line_of_what_can_be_printed(text: str, clean: str) -> None:
    assert clean_sentence(text) == clean


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the text is empty"),
        (" \n\x00\u200b\ud800", "the text is empty"),
        ("x" * 501, "the text has 501 characters, more than 500"),
    ],
)
def test_a_text_that_is_empty_or_too_long_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        clean_sentence(text)


@given(st.text(st.characters(codec=None), max_size=600))
def test_what_is_passed_on_can_be_encoded_and_is_short_enough(text: str) -> None:
    try:
        clean = clean_sentence(text)
    except ValueError:
        return
    assert clean.encode().decode() == clean == clean.strip() != ""
    assert len(clean) <= MAX_CHARACTERS


# The session.


def test_sentences_are_numbered_from_one_and_so_many_wait_at_most() -> None:
    call = session()
    assert [call.say(f"text {n}") for n in range(1, 9)] == [SaySentence(n, f"text {n}") for n in range(1, 9)]
    assert MAX_QUEUED == 8
    assert refusal(call) is SayRefusal.QUEUE_FULL
    assert call.handle_said(said(1), 0.0) == [SentenceSaid(1, "text 1", whole=True)]
    assert call.say("ninth") == SaySentence(9, "ninth"), "one that was refused has used no number up"
    assert (refusal(call), call.sentences.queued) == (SayRefusal.QUEUE_FULL, 8)


def test_a_sentence_is_over_once_and_counted_by_whether_it_was_whole() -> None:
    call = session()
    for text in ("one", "two", "three"):
        call.say(text)
    assert [*call.handle_said(said(1), 0.0), *call.handle_said(said(2, whole=False), 0.0)] == [
        SentenceSaid(1, "one", whole=True),
        SentenceSaid(2, "two", whole=False),
    ]
    assert [call.handle_said(said(n), 0.0) for n in (1, 2, 4, -1)] == [[]] * 4
    assert (call.record.counts["sentences_said"], call.record.counts["sentences_cut"]) == (1, 1)
    assert call.sentences.queued == 1


@pytest.mark.parametrize("state", [CallState.RESERVED, CallState.CONNECTED, CallState.LIVE])
def test_the_greeting_is_said_once_in_any_state_before_the_end_and_not_counted(state: CallState) -> None:
    call = session(state)
    assert call.record.greeting_said_s is None
    assert call.handle_said(said(0), 5.0) == [SentenceSaid(0, "", whole=True)]
    assert call.handle_said(said(0), 6.0) == []
    assert call.record.greeting_said_s == 5.0
    assert call.record.counts["sentences_said"] == 0


@pytest.mark.parametrize("state", [state for state in CallState if state is not CallState.LIVE])
def test_nothing_can_be_said_unless_the_call_is_live(state: CallState) -> None:
    call = session(state)
    assert refusal(call) is (SayRefusal.OVER if state is CallState.ENDED else SayRefusal.NOT_LIVE)
    assert call.record.sentences == 0


def test_what_is_said_while_the_call_drains_is_not_heard_and_does_not_count() -> None:
    call = session()
    call.say("Goodbye")
    call.record.first_sound_s = 2.0
    call.drain(EndReason.OPERATOR, 3.0)
    assert call.handle_said(said(1), 0.0) == []
    assert call.record.counts["sentences_said"] == 0


# The manager.


def sentences(front: Front) -> list[tuple[int, str]]:
    """What the workers were told to say."""
    return [(message.sentence, message.text) for message in front.sent if isinstance(message, Say)]


def answer(front: Front, call: ActiveCall, sentence: int, whole: bool = True) -> None:
    front.manager.handle_message(Said(call.reservation.slot, call.reservation.epoch, sentence, whole))


def outcomes(*queued: QueuedSentence) -> list[bool | str | None]:
    return [one.said.result() if one.said.done() else "waits" for one in queued]


async def test_sentences_go_to_the_workers_in_order_and_each_answer_to_whoever_asked() -> None:
    front = Front()
    ann, bob = front.talk(ANN), front.talk(BOB)
    one, two, other = ann.say("One"), ann.say("Two"), bob.say("Other")
    assert sentences(front) == [(1, "One"), (2, "Two"), (1, "Other")]
    assert [(say.slot, say.epoch) for say in front.sent if isinstance(say, Say)][1:] == [
        (call.reservation.slot, call.reservation.epoch) for call in (ann, bob)
    ]
    answer(front, ann, 1)
    assert outcomes(one, two, other) == [True, "waits", "waits"]
    answer(front, ann, 2, whole=False)
    assert outcomes(one, two, other) == [True, False, "waits"]


@pytest.mark.parametrize("reason", [EndReason.CALLER_HUNG_UP, EndReason.WORKER_LOST, EndReason.REPLACED])
async def test_when_the_stream_ends_what_waits_was_not_said(reason: EndReason) -> None:
    front = Front()
    call = front.talk(ANN)
    queued = [call.say("One"), call.say("Two")]
    answer(front, call, 1)
    call.end(reason)
    assert outcomes(*queued) == [True, None]
    assert refusal(call) is SayRefusal.OVER
    answer(front, call, 2)
    assert outcomes(*queued) == [True, None]


async def test_numbers_go_on_when_the_call_comes_back_and_late_answers_to_the_stream_before_are_ignored() -> None:
    front = Front(max_calls=1)
    first = front.talk(ANN)
    first.say("One")
    first.handle_event(Stopped())
    again = front.talk(ANN)
    assert again.reservation.slot == first.reservation.slot
    front.go_on(again)
    two = again.say("Two")
    assert (two.number, sentences(front)[-1]) == (2, (2, "Two"))
    for sentence in (0, 1, 2):
        answer(front, first, sentence)
    answer(front, again, 1)
    assert outcomes(two) == ["waits"]
    answer(front, again, 2)
    assert outcomes(two) == [True]


async def test_workers_that_cannot_be_reached_end_the_call_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front()
    call = front.talk(ANN)
    monkeypatch.setattr(call, "send", lambda _: 1 / 0)
    assert outcomes(call.say("One")) == [None]
    assert call.session.record.end is EndReason.INTERNAL


async def test_whoever_stopped_waiting_is_not_answered() -> None:
    front = Front()
    call = front.talk(ANN)
    queued = call.say("One")
    queued.said.cancel()
    answer(front, call, 1)
    assert call.session.record.end is None


async def test_the_end_of_each_sentence_is_an_event() -> None:
    front = Front()
    async with front.manager.events.subscribe(ANN) as events:
        call = front.talk(ANN)
        answer(front, call, 0)
        call.say("One")
        call.say("Two")
        answer(front, call, 1)
        answer(front, call, 2, whole=False)
        call.end(EndReason.CALLER_HUNG_UP)
        async with asyncio.timeout(30):
            told = [(event.kind.value, dict(event.fields)) async for event in events]
    assert [kind for kind, _ in told] == ["connected", "greeting_said", "said", "said", "disconnected"]
    assert [fields for _, fields in told][1:4] == [
        {"whole": True},
        {"id": 1, "text": "One", "whole": True},
        {"id": 2, "text": "Two", "whole": False},
    ]


async def test_a_late_answer_of_an_earlier_call_in_the_slot_leaves_the_next_ones_sentences_alone() -> None:
    front = Front(max_calls=1)
    ann = front.talk(ANN)
    ann.say("For Ann")
    ann.end(EndReason.CALLER_HUNG_UP)
    bob = front.talk(BOB)
    bob.say("For Bob")
    answer(front, ann, 1)
    assert bob.session.sentences.queued == 1
