"""Observers of a call on a real manager."""

from typing import Any

import numpy as np
import pytest

from app.calls.active_call import ActiveCall, ObserverFactory
from app.calls.end_reason import EndReason
from app.calls.observer import HOOKS, CallObserver
from app.calls.transfer import TransferBy
from app.twilio.events import DtmfPressed, Media, Stopped
from tests.app.calls.front import ANN, Front
from workers.messages import Frame, Said


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


def place_call(*observers: ObserverFactory) -> tuple[Front, ActiveCall]:
    """Run a call with one packet, one frame with a word, the end of the greeting, a gap, a transfer and the end."""
    front = Front(observers=observers)
    call = front.talk(ANN)
    slot, epoch = call.reservation.slot, call.reservation.epoch
    call.handle_event(Media(0, bytes(640)))
    front.manager.handle_message(Frame(slot, epoch, 0, np.zeros(1_920, np.float32), "Hi"))
    front.manager.handle_message(Said(slot, epoch, 0, whole=True))
    front.manager.on_pipeline_lost("step: killed by SIGKILL")
    front.manager.on_pipeline_ready()
    front.go_on(call)
    call.on_transferred(call.begin_transfer("+15550100009", TransferBy.OPERATOR))
    call.handle_event(Stopped())
    for _ in range(2):
        front.manager.end_transfer(ANN, "no-answer", None)
    return front, call


async def test_an_observer_sees_a_call_from_its_reservation_to_its_end() -> None:
    seen = Seen()
    place_call(lambda _: seen)
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
    front, call = place_call(lambda _: failing, lambda _: other)
    assert (call.session.record.end, front.manager.free_slots) == (EndReason.TRANSFERRED, 2)
    assert failing.hooks.count("on_error") == failing.hooks.count(hook) == failing.hooks.count("on_end") == 1
    assert other.hooks[-1] == "on_transfer_end"
    assert set(other.hooks) == set(HOOKS)
    assert sum(bool(record.exc_info) for record in caplog.records) == 1, "logged once"


async def test_an_observer_that_cannot_be_made_costs_nothing_but_itself(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()

    def broken(call: ActiveCall) -> CallObserver:
        raise ZeroDivisionError

    _, call = place_call(broken, lambda _: None, lambda _: seen)
    assert (call.session.record.end, seen.hooks[-1]) == (EndReason.TRANSFERRED, "on_transfer_end")
    assert sum(bool(record.exc_info) for record in caplog.records) == 1


async def test_a_record_is_kept_again_when_a_transfer_is_over() -> None:
    front, _ = place_call()
    assert [[(one.status, one.ended_s is None) for one in record.transfers] for record in front.kept] == [
        *([], [("", True)], [("no-answer", False)]),
    ]


async def test_events_go_on_to_their_end_when_another_observer_fails() -> None:
    front = Front(observers=[lambda _: Seen(*HOOKS)])
    async with front.manager.events.subscribe(ANN) as events:
        call = front.open_socket(front.ring(ANN))
        call.handle_event(DtmfPressed("5"))
        call.end(EndReason.SHUTDOWN)
        assert [event.kind async for event in events] == ["dtmf", "disconnected"]
