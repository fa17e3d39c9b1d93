import asyncio
import json

import numpy as np
import pytest

from app.audio import mulaw
from app.audio.playout import ClearAudio, SendAudio, SendMark
from app.calls.end_reason import ERRORS, EndReason
from app.calls.events import QUEUED_EVENTS, CallEvent, EventKind, EventPublisher, Events, Subscription
from app.calls.limits import CallLimits
from app.calls.session import CallSession, End
from app.calls.transcript import Side, Word
from app.twilio.events import CallSid, DtmfPressed, MarkPlayed, Media, Started, Stopped, StreamSid
from workers.messages import Epoch, Frame, Slot

ANN, BOB = CallSid("CAann"), CallSid("CAbob")
LOUD = mulaw.encode(np.random.default_rng(1).normal(0, 6_000, 640).astype(np.int16))
QUIET = mulaw.silence(640)
STARTED = Started(StreamSid("MZ1"), ANN, "AC1")
PATIENCE_S = 30.0

Told = list[tuple[EventKind, object]]
"""Kinds of events, and one field of each; None for those without fields."""


def brief(event: CallEvent) -> tuple[EventKind, object]:
    return event.kind, next(iter(event.fields.values()), None)


def key(digit: str, call_sid: CallSid = ANN) -> CallEvent:
    return CallEvent(call_sid, 1.0, EventKind.DTMF, {"digit": digit})


def over(call_sid: CallSid = ANN) -> CallEvent:
    return CallEvent(call_sid, 2.0, EventKind.DISCONNECTED, {"reason": EndReason.CALLER_HUNG_UP, "detail": ""})


async def rest(subscription: Subscription, count: int | None = None) -> Told:
    """Read `count` events, or until the subscription is finished."""
    told: Told = []
    async with asyncio.timeout(PATIENCE_S):
        while count is None or len(told) < count:
            try:
                told.append(brief(await anext(subscription)))
            except StopAsyncIteration:
                break
    return told


# Subscriptions.


async def test_a_subscription_has_the_events_of_its_call_and_ends_with_it_and_one_to_all_calls_goes_on() -> None:
    events = Events()
    assert not events.wanted(ANN)
    async with events.subscribe(ANN):
        assert (events.wanted(ANN), events.wanted(BOB)) == (True, False)
    async with events.subscribe(ANN) as ann, events.subscribe() as everything:
        assert (events.wanted(ANN), events.wanted(BOB)) == (True, True)
        for event in (key("1", BOB), key("2"), over(), key("3", BOB)):
            events.publish(event)
        events.finish(ANN)
        assert await rest(ann) == [brief(key("2")), brief(over())]
        assert await rest(everything, 4) == [brief(one) for one in (key("1"), key("2"), over(), key("3"))]
        events.close()
        assert await rest(everything) == []
    assert not events.wanted(ANN)


async def test_a_waiting_reader_gets_the_next_event() -> None:
    events = Events()
    async with events.subscribe(ANN) as subscription:
        waiting = asyncio.create_task(rest(subscription, 1))
        await asyncio.sleep(0)
        events.publish(key("1"))
        assert await waiting == [brief(key("1"))]


async def test_a_slow_reader_loses_the_oldest_events_and_gets_their_number_once() -> None:
    events = Events()
    async with events.subscribe(ANN, room=3) as slow, events.subscribe(ANN) as quick:
        for digit in range(7):
            events.publish(key(str(digit)))
        assert await rest(slow, 2) == [(EventKind.LOST, 4), (EventKind.DTMF, "4")]
        events.publish(over())
        events.finish(ANN)
        assert [kind for kind, _ in await rest(slow)] == [EventKind.DTMF, EventKind.DTMF, EventKind.DISCONNECTED]
        assert len(await rest(quick)) == 8 < QUEUED_EVENTS


def test_an_event_is_one_json_object_with_audio_as_base64() -> None:
    event = CallEvent(ANN, 1.23456, EventKind.AUDIO, {"direction": "out", "payload": b"\xff\xff\xff\xff"})
    head = {"call_sid": "CAann", "at_s": 1.2346}
    assert json.loads(event.to_json()) == {**head, "event": "audio", "direction": "out", "payload": "/////w=="}
    fields = {"event": "disconnected", "reason": "caller hung up", "detail": ""}
    assert json.loads(over().to_json()) == {"call_sid": "CAann", "at_s": 2.0} | fields


# What is published of a call.


class ObservedCall:
    """One call that was reserved at 100 s, and a subscription to it."""

    def __init__(self, audio: bool = False, pieces: bool = False) -> None:
        self.events = Events()
        self.session = CallSession(ANN, "", CallLimits(0, 20.0, 600.0, 0.0), 100.0)
        self.publisher = EventPublisher(self.events, self.session)
        self.subscription = self.events.subscribe(ANN, audio=audio, pieces=pieces)

    async def end(self, reason: EndReason = EndReason.CALLER_HUNG_UP) -> list[tuple[float, EventKind, object]]:
        """End the call; return all events and when they came."""
        self.session.end(reason, 200.0, "why")
        self.publisher.on_end(End(reason, "why"), 200.0)
        self.publisher.on_words_end(200.0)
        return [(round(event.at_s, 3), *brief(event)) async for event in self.subscription]


def text(piece: str) -> Frame:
    return Frame(Slot(0), Epoch(1), 0, None, piece)


async def live_call(*, audio: bool = False, pieces: bool = False) -> list[tuple[float, EventKind, object]]:
    """Return the events of a call in which something happens."""
    call = ObservedCall(audio, pieces)
    call.session.stream.started_s = 101.0
    call.publisher.on_frame(text(" Hello"), 100.5)
    call.publisher.on_event(STARTED, 101.0)
    call.publisher.on_event(Media(0, QUIET[:160]), 101.02)
    call.publisher.on_sent(SendAudio(QUIET, "0:1", 0), 101.1)
    call.publisher.on_event(DtmfPressed("5"), 102.0)
    call.publisher.on_word(Word(Side.CALLER, "Hi", 1.0, 1.4), 103.0)
    return await call.end()


@pytest.mark.parametrize("audio", [False, True])
async def test_events_of_a_call_carry_the_time_of_its_record_and_audio_only_if_wanted(audio: bool) -> None:
    assert await live_call(audio=audio) == [
        (1.0, EventKind.CONNECTED, None),
        *[(1.02, EventKind.AUDIO, "in"), (1.1, EventKind.AUDIO, "out")][: 2 * audio],
        (2.0, EventKind.DTMF, "5"),
        (3.0, EventKind.WORD, "caller"),
        (100.0, EventKind.DISCONNECTED, EndReason.CALLER_HUNG_UP),
    ]


async def test_who_wants_the_pieces_of_the_text_gets_nothing_else_and_has_nothing_else_made() -> None:
    assert await live_call(pieces=True) == [(0.5, EventKind.TEXT, " Hello")]
    events = Events()
    async with events.subscribe(ANN, pieces=True):
        assert (events.wanted(ANN), events.wanted(ANN, pieces=True)) == (False, True)


async def test_speech_of_both_is_found_by_the_level_of_their_packets() -> None:
    call = ObservedCall()
    for at in range(10):
        sound = LOUD if at < 4 else QUIET
        call.publisher.on_event(Media(80 * at, sound), 101.0 + 0.08 * at)
        call.publisher.on_sent(SendAudio(LOUD if at == 0 else QUIET, "0:1", at), 101.0 + 0.08 * at)
        if at == 3:
            call.publisher.on_frame(text(" and"), 101.3)  # its speech has not stopped
    assert [one for one in await call.end() if "speech" in one[1]] == [
        (1.0, EventKind.SPEECH_STARTED, "caller"),
        (1.0, EventKind.SPEECH_STARTED, "moshi"),
        (1.64, EventKind.SPEECH_STOPPED, "caller"),
        (1.72, EventKind.SPEECH_STOPPED, "moshi"),
    ]


async def test_a_caller_whose_line_sends_nothing_in_silence_stops_all_the_same() -> None:
    call = ObservedCall()
    call.publisher.on_event(Media(0, LOUD), 101.0)
    call.publisher.on_sent(SendAudio(QUIET, "0:1", 0), 101.3)
    call.publisher.on_sent(SendAudio(QUIET, "0:2", 1), 101.5)
    assert (1.5, EventKind.SPEECH_STOPPED, "caller") in await call.end()


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason is not EndReason.REPLACED])
async def test_an_end_that_nobody_wanted_is_an_error_and_every_call_is_disconnected_last(reason: EndReason) -> None:
    call = ObservedCall()
    call.publisher.on_event(STARTED, 101.0)  # not let start
    error = [(100.0, EventKind.ERROR, reason)] if reason in ERRORS else []
    assert await call.end(reason) == [*error, (100.0, EventKind.DISCONNECTED, reason)]


async def test_a_subscription_goes_on_when_the_call_goes_on_in_a_new_stream() -> None:
    call = ObservedCall()
    call.publisher.on_end(End(EndReason.REPLACED), 150.0)
    session = CallSession(ANN, "", CallLimits(0, 20.0, 600.0, 0.0), 150.0, call.session.record)
    session.stream.started_s = 151.0
    EventPublisher(call.events, session).on_event(STARTED, 151.0)
    assert [kind for _, kind, _ in await call.end()] == [EventKind.CONNECTED, EventKind.DISCONNECTED]


async def test_marks_clears_and_steps_without_text_are_no_events() -> None:
    call = ObservedCall(audio=True)
    for event in (MarkPlayed("0:1"), Stopped()):
        call.publisher.on_event(event, 101.0)
    for command in (SendMark("0:1"), ClearAudio()):
        call.publisher.on_sent(command, 101.0)
    call.publisher.on_frame(text(""), 101.0)
    assert len(await call.end()) == 1


async def test_without_subscribers_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mulaw, "power_dbfs", lambda _: 1 / 0)
    call = ObservedCall()
    with pytest.raises(ZeroDivisionError):
        call.publisher.on_event(Media(0, LOUD), 101.0)
    call.events.close()
    call.publisher.on_event(Media(0, LOUD), 101.0)
    call.publisher.on_sent(SendAudio(LOUD, "0:1", 0), 101.0)
