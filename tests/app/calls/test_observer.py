"""Observers of a call on a real manager."""

from typing import Any

import numpy as np
import pytest

from app.calls.active_call import ActiveCall, ObserverFactory
from app.calls.admission import VoiceRequest
from app.calls.manager import CallManager
from app.calls.observer import HOOKS, CallObserver, RecordObserver
from app.calls.record import CallRecord, EndReason
from app.calls.transfer import TransferBy
from app.config import read_settings
from app.twilio.events import CallSid, Connected, DtmfPressed, Media, Started, Stopped, StreamSid
from workers.messages import Frame, Resumed, Said, Slot

ANN = CallSid("CAann")
STARTED = Started(StreamSid("MZ1"), ANN, "AC1")


def noting(name: str) -> Any:
    def note(self: "Seen", *_: object) -> None:
        self.hooks.append(name)
        if name in self.fails:
            raise ZeroDivisionError

    return note


class Seen(CallObserver):
    """Notes which of its methods are called; fails in those named in `fails`."""

    def __init__(self, *fails: str) -> None:
        self.fails = fails
        self.hooks: list[str] = []


for hook in (*HOOKS, "on_error"):
    setattr(Seen, hook, noting(hook))


def manager_of(*observers: ObserverFactory) -> CallManager:
    manager = CallManager(read_settings(engine="loopback", codec="loopback"), lambda _: None, lambda: True, observers)
    manager.start_accepting(1, processing_s=0.0)
    return manager


def connect(manager: CallManager, request: VoiceRequest | None = None) -> ActiveCall:
    reservation = manager.reserve(ANN, request or VoiceRequest())
    assert reservation
    call = manager.claim(reservation.token)
    assert call
    return call


def place_call(manager: CallManager) -> ActiveCall:
    """Run a call with one packet, one frame with a word, the end of the greeting, a gap, a transfer and the end."""
    call = connect(manager)
    for event in (Connected(), STARTED, Media(0, bytes(640))):
        call.handle_event(event)
    manager.handle_message(Frame(call.reservation.slot, call.reservation.epoch, 0, np.zeros(1_920, np.float32), "Hi"))
    manager.handle_message(Said(call.reservation.slot, call.reservation.epoch, 0, whole=True))
    manager.on_pipeline_lost("step: killed by SIGKILL")
    manager.on_pipeline_ready()
    manager.handle_message(Resumed(call.reservation.slot, call.reservation.epoch, 1, 0))
    call.on_transferred(call.begin_transfer("+15550100009", TransferBy.OPERATOR))
    call.handle_event(Stopped())
    for _ in range(2):
        manager.end_transfer(ANN, "no-answer", None)
    return call


async def test_an_observer_sees_a_call_from_its_reservation_to_its_end() -> None:
    seen = Seen()
    place_call(manager_of(lambda _: seen))
    events = ["on_event", "on_event", "on_sent", "on_event", "on_sent"]  # start: a mark; packet: a frame
    assert seen.hooks[:7] == ["on_reserved", "on_connected", *events]
    assert [hook for hook in seen.hooks[7:] if hook != "on_sent"] == [
        *("on_frame", "on_said", "on_suspended", "on_resumed", "on_transfer", "on_event", "on_word", "on_turn"),
        *("on_end", "on_words_end", "on_transfer_end"),
    ]


@pytest.mark.parametrize("hook", HOOKS)
async def test_an_observer_that_fails_is_dropped_but_for_the_end_and_costs_nobody_else_anything(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = Seen(hook), Seen()
    call = place_call(manager := manager_of(lambda _: failing, lambda _: other))
    assert (call.session.record.end, manager.free_slots) == (EndReason.TRANSFERRED, 1)
    assert failing.hooks.count("on_error") == failing.hooks.count(hook) == failing.hooks.count("on_end") == 1
    assert other.hooks[-1] == "on_transfer_end"
    assert set(other.hooks) == set(HOOKS)
    assert sum(bool(record.exc_info) for record in caplog.records) == 1, "logged once"


async def test_an_observer_that_cannot_be_made_costs_nothing_but_itself(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()

    def broken(call: ActiveCall) -> CallObserver:
        raise ZeroDivisionError

    call = place_call(manager_of(broken, lambda _: None, lambda _: seen))
    assert (call.session.record.end, seen.hooks[-1]) == (EndReason.TRANSFERRED, "on_transfer_end")
    assert sum(bool(record.exc_info) for record in caplog.records) == 1


async def test_a_record_is_kept_when_a_call_begins_comes_back_and_ends() -> None:
    kept: list[tuple[str, str, str, Slot, EndReason | None]] = []

    def keep(record: CallRecord, slot: Slot) -> None:
        kept.append((record.caller, record.called, record.direction, slot, record.end))

    manager = manager_of(lambda call: RecordObserver(call.session, call.reservation.slot, keep))
    request = VoiceRequest(None, "+15550100001", "+15550100000", "inbound")
    for end in (EndReason.SOCKET_LOST, EndReason.SHUTDOWN):
        manager.reserve(ANN, request)
        connect(manager, request).end(end)
    ends = [None, EndReason.SOCKET_LOST, None, EndReason.SHUTDOWN]
    assert kept == [("+15550100001", "+15550100000", "inbound", Slot(0), end) for end in ends]


async def test_a_record_is_kept_again_when_a_transfer_is_over() -> None:
    kept: list[CallRecord] = []
    place_call(
        manager_of(
            lambda call: RecordObserver(call.session, Slot(0), lambda one, _: kept.append(one.copy()), amended=True)
        )
    )
    assert [[(one.status, one.ended_s is None) for one in record.transfers] for record in kept] == [
        *([], [("", True)], [("no-answer", False)]),
    ]


async def test_events_go_on_to_their_end_when_another_observer_fails() -> None:
    manager = manager_of(lambda _: Seen(*HOOKS))
    async with manager.events.subscribe(ANN) as events:
        call = connect(manager)
        call.handle_event(DtmfPressed("5"))
        call.end(EndReason.SHUTDOWN)
        assert [event.kind async for event in events] == ["dtmf", "disconnected"]
