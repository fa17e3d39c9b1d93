import asyncio
import json

import pytest

from app.calls.events import (
    AudioSent,
    CallError,
    CallEvent,
    CallStarted,
    Direction,
    Disconnected,
    EventBody,
    Events,
    EventsLost,
    KeyPressed,
    Speaker,
    SpeechStarted,
    SpeechStopped,
    Subscription,
    TextSpoken,
)
from app.calls.record import EndReason
from app.twilio.events import CallSid

ANN, BOB = CallSid("CAann"), CallSid("CAbob")
OVER = Disconnected(EndReason.CALLER_HUNG_UP, "")
GUARD_S = 30.0


def tell(events: Events, *whats: EventBody, call_sid: CallSid = ANN) -> None:
    for what in whats:
        events.publish(CallEvent(call_sid, 1.0, what))


async def read(subscription: Subscription, count: int) -> list[EventBody]:
    async with asyncio.timeout(GUARD_S):
        return [(await anext(subscription)).body for _ in range(count)]


async def rest(subscription: Subscription) -> list[EventBody]:
    async with asyncio.timeout(GUARD_S):
        return [event.body async for event in subscription]


async def test_a_subscription_to_a_call_has_its_events_in_order_and_ends_with_it() -> None:
    events = Events()
    async with events.subscribe(ANN) as news:
        tell(events, CallStarted(), TextSpoken(" Hello"), OVER)
        assert await rest(news) == [CallStarted(), TextSpoken(" Hello"), OVER]


async def test_a_subscription_to_one_call_has_no_events_of_others() -> None:
    events = Events()
    async with events.subscribe(ANN) as ann, events.subscribe() as everything:
        tell(events, KeyPressed("1"), call_sid=BOB)
        tell(events, KeyPressed("2"), OVER)
        assert await rest(ann) == [KeyPressed("2"), OVER]
        tell(events, KeyPressed("3"), call_sid=BOB)
        assert await read(everything, 4) == [KeyPressed("1"), KeyPressed("2"), OVER, KeyPressed("3")]


async def test_a_waiting_reader_gets_the_next_event() -> None:
    events = Events()
    async with events.subscribe(ANN) as news:
        waiting = asyncio.create_task(read(news, 1))
        await asyncio.sleep(0)
        tell(events, CallStarted())
        assert await waiting == [CallStarted()]


async def test_audio_is_only_for_subscriptions_with_audio() -> None:
    events = Events()
    packet = AudioSent(Direction.IN, b"\xff" * 160)
    async with events.subscribe(ANN) as without, events.subscribe(ANN, audio=True) as with_audio:
        tell(events, packet, OVER)
        assert await rest(without) == [OVER]
        assert await rest(with_audio) == [packet, OVER]


async def test_a_slow_reader_loses_the_oldest_events_and_gets_their_number() -> None:
    events = Events()
    async with events.subscribe(ANN, room=3) as slow, events.subscribe(ANN, room=9) as quick:
        tell(events, *(KeyPressed(str(key)) for key in range(7)), OVER)
        assert await rest(slow) == [EventsLost(5), KeyPressed("5"), KeyPressed("6"), OVER]
        assert len(await rest(quick)) == 8


async def test_lost_events_are_reported_once() -> None:
    events = Events()
    async with events.subscribe(ANN, room=1) as slow:
        tell(events, KeyPressed("1"), KeyPressed("2"))
        assert await read(slow, 2) == [EventsLost(1), KeyPressed("2")]
        tell(events, KeyPressed("3"))
        assert await read(slow, 1) == [KeyPressed("3")]


async def test_events_are_wanted_only_with_a_subscription() -> None:
    events = Events()
    assert not events.wanted(ANN)
    async with events.subscribe(ANN):
        assert (events.wanted(ANN), events.wanted(BOB)) == (True, False)
        async with events.subscribe():
            assert events.wanted(BOB)
    assert not events.wanted(ANN)


async def test_closing_finishes_all_subscriptions() -> None:
    events = Events()
    async with events.subscribe(ANN) as ann, events.subscribe() as everything:
        tell(events, CallStarted())
        events.close()
        assert await rest(ann) == await rest(everything) == [CallStarted()]
    assert not events.wanted(ANN)


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        (CallStarted(), {"event": "connected"}),
        (AudioSent(Direction.OUT, b"\xff\xff\xff\xff"), {"event": "audio", "direction": "out", "payload": "/////w=="}),
        (TextSpoken(" Hi"), {"event": "text", "text": " Hi"}),
        (SpeechStarted(Speaker.MOSHI), {"event": "speech_started", "speaker": "moshi"}),
        (SpeechStopped(Speaker.CALLER), {"event": "speech_stopped", "speaker": "caller"}),
        (KeyPressed("#"), {"event": "dtmf", "digit": "#"}),
        (
            CallError(EndReason.WORKER_LOST, "step-0"),
            {"event": "error", "reason": "a worker was lost", "detail": "step-0"},
        ),
        (OVER, {"event": "disconnected", "reason": "caller hung up", "detail": ""}),
        (EventsLost(7), {"event": "lost", "count": 7}),
    ],
    ids=lambda value: value["event"] if isinstance(value, dict) else "",
)
def test_every_event_can_be_written_as_json(what: EventBody, fields: dict[str, object]) -> None:
    assert json.loads(CallEvent(ANN, 1.23456, what).to_json()) == {"call_sid": "CAann", "at_s": 1.2346, **fields}
