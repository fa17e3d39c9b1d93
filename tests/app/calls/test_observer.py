"""Observers of a call on a real manager."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from app.audio.playout import PlayoutCommand
from app.calls.active_call import ActiveCall, ObserverFactory, VoiceRequest
from app.calls.leg import SendFrame
from app.calls.manager import CallManager
from app.calls.observer import CallObserver, RecordObserver
from app.calls.record import CallRecord, EndReason
from app.calls.session import End
from app.config import read_settings
from app.twilio.events import CallSid, Connected, DtmfPressed, Event, Media, Started, Stopped, StreamSid
from workers.messages import Frame, Slot

ANN = CallSid("CAann")
STARTED = Started(StreamSid("MZ1"), ANN, "AC1")
HOOKS = ("on_reserved", "on_connected", "on_event", "on_frame", "on_sent", "on_end")


@dataclass
class Seen(CallObserver):
    """Notes what it is shown; fails at the hooks named in `fails`."""

    fails: frozenset[str] = frozenset()
    hooks: list[str] = field(default_factory=list)
    errors: int = 0

    def on_reserved(self, now: float) -> None:
        self._see("on_reserved")

    def on_connected(self, now: float) -> None:
        self._see("on_connected")

    def on_event(self, event: Event, now: float) -> None:
        self._see("on_event")

    def on_frame(self, frame: Frame, now: float) -> None:
        self._see("on_frame")

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        self._see("on_sent")

    def on_end(self, end: End, now: float) -> None:
        self._see("on_end")

    def on_error(self) -> None:
        self.errors += 1

    def _see(self, hook: str) -> None:
        self.hooks.append(hook)
        if hook in self.fails:
            raise ZeroDivisionError


def manager(observers: Sequence[ObserverFactory]) -> CallManager:
    settings = read_settings(engine="loopback", codec="loopback")
    board = CallManager(settings, lambda _: None, lambda: True, observers)
    board.start_accepting(1, processing_s=0.0)
    return board


def place_call(board: CallManager) -> ActiveCall:
    """Run a call with one packet, one frame and its end."""
    reservation = board.reserve(ANN)
    assert reservation
    call = board.claim(reservation.token)
    assert call
    for event in (Connected(), STARTED, Media(0, bytes(640))):
        call.handle_event(event)
    board.handle_message(Frame(reservation.slot, reservation.epoch, 0, np.zeros(1_920, np.float32)))
    call.handle_event(Stopped())
    return call


async def test_an_observer_sees_a_call_from_its_reservation_to_its_end() -> None:
    seen = Seen()
    place_call(manager([lambda _: seen]))
    events = ["on_event", "on_event", "on_sent", "on_event", "on_sent"]  # start: a mark; packet: a frame
    assert seen.hooks[:7] == ["on_reserved", "on_connected", *events]
    assert [hook for hook in seen.hooks[7:] if hook != "on_sent"] == ["on_frame", "on_event", "on_end"]


@pytest.mark.parametrize("hook", HOOKS)
async def test_an_observer_that_fails_is_dropped_but_for_the_end_and_costs_nobody_else_anything(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = Seen(frozenset([hook])), Seen()
    call = place_call(board := manager([lambda _: failing, lambda _: other]))
    assert call.session.record.end is EndReason.CALLER_HUNG_UP
    assert board.free_slots == 1
    assert failing.errors == 1
    assert failing.hooks.count(hook) == 1
    assert failing.hooks[-1] == other.hooks[-1] == "on_end"
    assert set(other.hooks) == set(HOOKS)
    assert sum(bool(record.exc_info) for record in caplog.records) == 1, "logged once"


async def test_an_observer_that_cannot_be_made_costs_nothing_but_itself(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()

    def broken(call: ActiveCall) -> CallObserver:
        raise ZeroDivisionError

    call = place_call(manager([broken, lambda _: None, lambda _: seen]))
    assert call.session.record.end is EndReason.CALLER_HUNG_UP
    assert seen.hooks[-1] == "on_end"
    assert sum(bool(record.exc_info) for record in caplog.records) == 1


async def test_a_record_is_kept_when_a_call_begins_comes_back_and_ends() -> None:
    kept: list[tuple[str, str, str, Slot, EndReason | None]] = []

    def keep(record: CallRecord, slot: Slot) -> None:
        kept.append((record.caller, record.called, record.direction, slot, record.end))

    board = manager([lambda call: RecordObserver(call.session, call.reservation.slot, keep)])
    request = VoiceRequest(None, "+15550100001", "+15550100000", "inbound")
    for end in (EndReason.SOCKET_LOST, EndReason.SHUTDOWN):
        reservation = board.reserve(ANN, request)
        assert reservation
        assert board.reserve(ANN, request) == reservation, "a repeated webhook"
        call = board.claim(reservation.token)
        assert call
        call.end(end)
    ends = [None, EndReason.SOCKET_LOST, None, EndReason.SHUTDOWN]
    assert kept == [("+15550100001", "+15550100000", "inbound", Slot(0), end) for end in ends]


async def test_events_go_on_to_their_end_when_another_observer_fails() -> None:
    board = manager([lambda _: Seen(frozenset(HOOKS))])
    async with board.events.subscribe(ANN) as events:
        reservation = board.reserve(ANN)
        assert reservation
        call = board.claim(reservation.token)
        assert call
        call.handle_event(DtmfPressed("5"))
        call.end(EndReason.SHUTDOWN)
        assert [event.kind async for event in events] == ["dtmf", "disconnected"]
    assert call.session.record.ended_s == pytest.approx(time.monotonic(), abs=60)
