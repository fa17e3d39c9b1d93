import numpy as np
import pytest

from app.audio import mulaw
from app.audio.playout import ClearAudio, SendAudio, SendMark
from app.calls.events import (
    AudioSent,
    CallError,
    CallStarted,
    Direction,
    Disconnected,
    EventBody,
    Events,
    KeyPressed,
    Speaker,
    SpeechStarted,
    SpeechStopped,
    Subscription,
    TextSpoken,
)
from app.calls.live_events import LiveEvents
from app.calls.record import ERRORS, CallRecord, EndReason
from app.calls.session import End
from app.twilio.events import CallSid, DtmfPressed, MarkPlayed, Media, Started, Stopped, StreamSid
from workers.messages import Epoch, Frame, Slot

ANN = CallSid("CAann")
LOUD = mulaw.encode(np.random.default_rng(1).normal(0, 6_000, 640).astype(np.int16))
QUIET = bytes([mulaw.SILENCE]) * 640
STARTED = Started(StreamSid("MZ1"), ANN, "AC1")


Bodies = list[tuple[float, EventBody]]


class ObservedCall:
    """One call, seen by somebody who wants its audio too."""

    def __init__(self) -> None:
        self.events = Events()
        self.record = CallRecord(ANN, reserved_s=100.0)
        self.stream = self.record.open_stream(100.0)
        self.observer = LiveEvents(self.events, self.record, self.stream)
        self.subscription: Subscription = self.events.subscribe(ANN, audio=True)

    async def end(self, reason: EndReason = EndReason.CALLER_HUNG_UP, detail: str = "") -> "Bodies":
        """End the call; return all events and when they came."""
        self.observer.on_end(End(reason, detail), 200.0)
        return [(round(event.at_s, 3), event.body) async for event in self.subscription]


def text(piece: str) -> Frame:
    return Frame(Slot(0), Epoch(1), 0, None, piece)


async def test_events_of_a_call_carry_the_time_of_its_record() -> None:
    call = ObservedCall()
    call.stream.started_s = 101.0
    call.observer.on_frame(text(" Hello"), 100.5)
    call.observer.on_event(STARTED, 101.0)
    call.observer.on_event(Media(0, QUIET[:160]), 101.02)
    call.observer.on_sent(SendAudio(QUIET, "0:1", 0), 101.1)
    call.observer.on_event(DtmfPressed("5"), 102.0)
    assert await call.end() == [
        (0.5, TextSpoken(" Hello")),
        (1.0, CallStarted()),
        (1.02, AudioSent(Direction.IN, QUIET[:160])),
        (1.1, AudioSent(Direction.OUT, QUIET)),
        (2.0, KeyPressed("5")),
        (100.0, Disconnected(EndReason.CALLER_HUNG_UP, "")),
    ]


async def test_a_stream_that_was_not_let_start_is_not_connected() -> None:
    call = ObservedCall()
    call.observer.on_event(STARTED, 101.0)
    assert [what for _, what in await call.end(EndReason.WRONG_CALL)] == [
        CallError(EndReason.WRONG_CALL, ""),
        Disconnected(EndReason.WRONG_CALL, ""),
    ]


async def test_the_callers_speech_is_found_by_the_level_of_their_packets() -> None:
    call = ObservedCall()
    for at in range(10):
        loud = at < 4
        call.observer.on_event(Media(80 * at, LOUD if loud else QUIET), 101.0 + 0.08 * at)
    told = [(at_s, what) for at_s, what in await call.end() if isinstance(what, SpeechStarted | SpeechStopped)]
    assert told == [(1.0, SpeechStarted(Speaker.CALLER)), (1.64, SpeechStopped(Speaker.CALLER))]


async def test_moshis_speech_is_found_by_what_is_sent_and_lasts_while_text_comes() -> None:
    call = ObservedCall()
    call.observer.on_sent(SendAudio(LOUD, "0:1", 0), 101.0)
    call.observer.on_frame(text(" and"), 101.3)
    for at in range(10):
        call.observer.on_sent(SendAudio(QUIET, "0:2", 1), 101.1 + 0.08 * at)
    told = [(at_s, what) for at_s, what in await call.end() if isinstance(what, SpeechStarted | SpeechStopped)]
    assert told == [(1.0, SpeechStarted(Speaker.MOSHI)), (1.74, SpeechStopped(Speaker.MOSHI))]


async def test_a_caller_whose_line_sends_nothing_in_silence_stops_all_the_same() -> None:
    call = ObservedCall()
    call.observer.on_event(Media(0, LOUD), 101.0)
    call.observer.on_sent(SendAudio(QUIET, "0:1", 0), 101.3)
    call.observer.on_sent(SendAudio(QUIET, "0:2", 1), 101.5)
    assert (1.5, SpeechStopped(Speaker.CALLER)) in await call.end()


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason is not EndReason.REPLACED])
async def test_an_end_that_nobody_wanted_is_an_error_and_every_call_is_disconnected_last(reason: EndReason) -> None:
    told = [what for _, what in await ObservedCall().end(reason, "why")]
    error = [CallError(reason, "why")] if reason in ERRORS else []
    assert told == [*error, Disconnected(reason, "why")]


async def test_a_subscription_goes_on_when_the_call_goes_on_in_a_new_stream() -> None:
    call = ObservedCall()
    call.observer.on_end(End(EndReason.REPLACED), 150.0)
    call.stream = call.record.open_stream(150.0)
    call.observer = LiveEvents(call.events, call.record, call.stream)
    call.stream.started_s = 151.0
    call.observer.on_event(STARTED, 151.0)
    over = Disconnected(EndReason.CALLER_HUNG_UP, "")
    assert await call.end() == [(51.0, CallStarted()), (100.0, over)]


async def test_marks_clears_and_steps_without_text_are_no_events() -> None:
    call = ObservedCall()
    for event in (MarkPlayed("0:1"), Stopped()):
        call.observer.on_event(event, 101.0)
    for command in (SendMark("0:1"), ClearAudio()):
        call.observer.on_sent(command, 101.0)
    call.observer.on_frame(text(""), 101.0)
    assert len(await call.end()) == 1


async def test_without_subscribers_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mulaw, "power_dbfs", lambda _: 1 / 0)
    call = ObservedCall()
    with pytest.raises(ZeroDivisionError):
        call.observer.on_event(Media(0, LOUD), 101.0)
    call.events.unsubscribe(call.subscription)
    call.observer.on_event(Media(0, LOUD), 101.0)
    call.observer.on_sent(SendAudio(LOUD, "0:1", 0), 101.0)
