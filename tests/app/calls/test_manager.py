import math
import time
from dataclasses import replace

import numpy as np
import pytest

from app.audio.jitter_buffer import WAIT_S
from app.audio.playout import ClearAudio, SendAudio, SendMark
from app.calls import events
from app.calls.active_call import ActiveCall
from app.calls.admission import TTL_S, Reservation
from app.calls.manager import CallManager
from app.calls.outbox import OUTBOX_COMMANDS
from app.calls.record import EndReason
from app.calls.records import RECORDS_KEPT, RECORDS_WITH_SPANS
from app.calls.session import START_WITHIN_S, SendFrame
from app.calls.statistics import PROCESSING_EMA_WEIGHT
from app.config import read_settings
from app.twilio.events import CallSid, Connected, DtmfPressed, Media, Started, Stopped, StreamSid
from workers.messages import FRAME_S, Close, Epoch, Failed, Frame, Open, PipelineMessage, Slot, Span, Stage

ANN, BOB, EVE = CallSid("CAann"), CallSid("CAbob"), CallSid("CAeve")


class Manager:
    """A manager, and what it has sent round the ring."""

    def __init__(self, max_calls: int = 2, **changes: object) -> None:
        self.sent: list[PipelineMessage] = []
        self.warm = True
        settings = read_settings(engine="loopback", codec="loopback", max_calls=max_calls, **changes)
        self.board = CallManager(settings, self.sent.append, lambda: self.warm)
        self.board.start_accepting(max_calls, processing_s=0.0)

    def reserve(self, call_sid: CallSid) -> Reservation:
        reservation = self.board.reserve(call_sid)
        assert reservation is not None
        return reservation

    def connect(self, call_sid: CallSid) -> ActiveCall:
        call = self.board.claim(self.reserve(call_sid).token)
        assert call is not None
        return call

    def start(self, call_sid: CallSid) -> ActiveCall:
        call = self.connect(call_sid)
        for event in (Connected(), Started(StreamSid("MZ1"), call_sid, "AC1")):
            call.handle_event(event)
        return call

    def reasons(self) -> list[EndReason | None]:
        return [record.end for record in self.board.records()]


def now() -> float:
    return time.monotonic()


def frame(call: ActiveCall, seq: int = 0, epoch: int | None = None) -> Frame:
    reservation = call.reservation
    spans = (Span(Stage.ENCODE, 1.0, 1.01), Span(Stage.STEP, 1.01, 1.05), Span(Stage.DECODE, 1.05, 1.08))
    pcm = np.zeros(1_920, np.float32)
    return Frame(reservation.slot, reservation.epoch if epoch is None else Epoch(epoch), seq, pcm, spans=spans)


def waiting(call: ActiveCall) -> list[int | None]:
    """What waits for the socket, as sizes; None is the order to close it."""
    items = list(iter(call.outbox.pop, None))
    closed = [None] if call.outbox.closed else []
    return [len(item.payload) for item in items if isinstance(item, SendAudio)] + closed


def send_all(here: Manager, call: ActiveCall) -> None:
    """Let the time come for everything that is held back for the line."""
    while (due_s := call.session._playout.get_timer()) < math.inf:
        call.carry_out(call.session._playout.advance(due_s), now())


async def test_a_call_from_reservation_to_end() -> None:
    here = Manager()
    call = here.start(ANN)
    slot, epoch = call.reservation.slot, call.reservation.epoch
    call.handle_event(Media(0, bytes(640)))
    here.board.handle_message(frame(call))
    send_all(here, call)
    assert waiting(call) == [640]
    call.handle_event(Stopped())
    assert waiting(call) == [None]
    assert [type(message) for message in here.sent] == [Open, Frame, Close]
    assert all((message.slot, message.epoch) == (slot, epoch) for message in here.sent)
    assert (here.reasons(), here.board.free_slots) == ([EndReason.CALLER_HUNG_UP], 2)
    assert no_timer(call)


async def test_frames_of_an_earlier_call_are_dropped() -> None:
    here = Manager(max_calls=1)
    ann = here.start(ANN)
    ann.end(EndReason.SOCKET_LOST)
    bob = here.start(BOB)
    assert bob.reservation.slot == ann.reservation.slot
    here.board.handle_message(frame(ann))
    here.board.handle_message(frame(bob, epoch=0))
    send_all(here, bob)
    assert waiting(bob) == []
    here.board.handle_message(frame(bob))
    send_all(here, bob)
    assert waiting(bob) == [640]


async def test_a_message_for_a_slot_that_nobody_holds_is_dropped() -> None:
    here = Manager()
    here.board.handle_message(Frame(Slot(1), Epoch(1), 0, None))
    here.board.handle_message(Failed(Slot(1), Epoch(1), Stage.STEP, "why"))
    here.board.handle_message(Close(Slot(1), Epoch(1)))
    assert here.board.records() == []


async def test_a_stage_that_fails_ends_its_call_and_no_other() -> None:
    here = Manager()
    ann, bob = here.start(ANN), here.start(BOB)
    here.board.handle_message(Failed(ann.reservation.slot, ann.reservation.epoch, Stage.DECODE, "broken"))
    assert waiting(ann) == [None]
    assert (ann.session.record.end, ann.session.record.detail) == (EndReason.STAGE_FAILED, "decode: broken")
    assert bob.session.record.end is None


async def test_a_lost_pipeline_ends_all_calls() -> None:
    here = Manager(max_calls=4)
    calls = [here.start(CallSid(f"CA{number}")) for number in range(4)]
    here.board.on_pipeline_lost("step: hangs, no answer for 3 s")
    assert {call.session.record.end for call in calls} == {EndReason.WORKER_LOST}
    assert {call.session.record.detail for call in calls} == {"step: hangs, no answer for 3 s"}
    assert here.board.free_slots == 4


async def test_the_state_of_the_pipeline_is_reported() -> None:
    here = Manager()
    assert here.board.pipeline == "ready"
    here.warm = False
    assert here.board.pipeline == "starting"
    here.board.on_pipeline_lost("step: hangs, no answer for 3 s")
    assert here.board.pipeline == "step: hangs, no answer for 3 s"
    here.warm = True
    assert here.board.pipeline == "ready"


async def test_an_error_of_our_own_in_a_stage_ends_its_call_alone() -> None:
    here = Manager()
    ann, bob = here.start(ANN), here.start(BOB)
    place = ann.reservation
    here.board.handle_message(Failed(place.slot, place.epoch, Stage.STEP, "KeyError(1)", internal=True))
    assert (ann.session.record.end, ann.session.record.detail) == (EndReason.INTERNAL, "step: KeyError(1)")
    assert bob.session.record.end is None


def audio(count: int) -> list[SendAudio]:
    return [SendAudio(bytes(640), f"0:{number}", number) for number in range(count)]


async def test_a_socket_that_takes_nothing_more_is_given_up() -> None:
    here = Manager()
    call = here.start(ANN)
    assert call.outbox.pop() == SendMark("0:1")
    call.carry_out([*audio(OUTBOX_COMMANDS)], now())
    assert call.session.record.end is None
    call.carry_out([ClearAudio()], now())
    assert call.session.record.end is EndReason.SOCKET_BLOCKED
    assert waiting(call) == [None], "what nobody will hear is not sent"
    assert here.board.free_slots == 2


async def test_a_socket_that_is_given_up_in_mid_command_is_closed_first_of_all() -> None:
    here = Manager()
    call = here.start(ANN)
    call.carry_out([*audio(OUTBOX_COMMANDS + 20), SendFrame(5, np.zeros(1_920, np.float32))], now())
    assert here.reasons() == [EndReason.SOCKET_BLOCKED]
    assert waiting(call)[0] is None
    assert no_timer(call)


def no_timer(call: ActiveCall) -> bool:
    return call.timer is None or call.timer.cancelled()


async def test_audio_that_waits_when_the_caller_hangs_up_is_not_sent() -> None:
    here = Manager()
    call = here.start(ANN)
    call.carry_out([*audio(5)], now())
    call.handle_event(Stopped())
    assert waiting(call) == [None]


async def test_a_repeated_webhook_is_the_same_call_until_its_socket_comes() -> None:
    here = Manager()
    first = here.reserve(ANN)
    assert here.reserve(ANN) == first
    here.board.claim(first.token)
    assert (here.board.reserve(ANN), here.board.free_slots) == (None, 1), "a call never has two slots"


async def test_no_call_is_taken_while_a_worker_is_down_or_all_slots_are_taken_or_the_service_stops() -> None:
    here = Manager(max_calls=1)
    here.warm = False
    assert (here.board.ready, here.board.reserve(ANN)) == (False, None)
    here.warm = True
    here.reserve(ANN)
    assert (here.board.ready, here.board.reserve(BOB)) == (False, None)
    here.board.stop()
    assert here.board.free_slots == 1
    assert (here.board.ready, here.board.reserve(EVE)) == (False, None)


async def test_when_the_service_stops_all_calls_end_and_their_tokens_are_worthless() -> None:
    here = Manager()
    ann, bob = here.start(ANN), here.reserve(BOB)
    here.board.stop()
    assert here.reasons() == [EndReason.SHUTDOWN] * 2
    assert waiting(ann) == [None]
    assert here.board.claim(bob.token) is None


async def test_a_timer_runs_for_every_call_until_it_ends() -> None:
    here = Manager()
    before = now()
    token = here.reserve(ANN).token
    (call,) = here.board._calls.values()
    assert call.timer is not None
    assert call.timer.when() == pytest.approx(before + TTL_S, abs=1)
    here.board.claim(token)
    assert call.timer.when() == pytest.approx(before + START_WITHIN_S, abs=1)
    for event in (Connected(), Started(StreamSid("MZ1"), ANN, "AC1")):
        call.handle_event(event)
    assert call.timer.when() == pytest.approx(before + FRAME_S + WAIT_S[0], abs=0.5), "the first frame of silence"
    timer = call.timer
    call.end(EndReason.SHUTDOWN)
    assert timer.cancelled()


async def test_a_late_event_after_the_end_does_nothing() -> None:
    here = Manager()
    call = here.start(ANN)
    call.end(EndReason.TIME_LIMIT)
    call.handle_event(Media(0, bytes(640)))
    call.end(EndReason.SOCKET_LOST)
    assert waiting(call) == [None]
    assert no_timer(call)
    assert here.reasons() == [EndReason.TIME_LIMIT]


async def test_an_early_timer_is_not_set_again_per_packet() -> None:
    here = Manager()
    call = here.start(ANN)
    timer = call.timer
    call.handle_event(Media(60, bytes(160)))
    assert call.session.get_timer() > now() + FRAME_S, "the next frame is due later"
    assert call.timer is timer, "setting one for every packet would cost more than looking again"


async def test_the_time_in_the_workers_is_an_average_that_follows_slowly() -> None:
    here = Manager()
    call = here.start(ANN)
    here.board.statistics.processing_s = 0.04
    here.board.handle_message(frame(call))
    assert here.board.statistics.processing_s == pytest.approx(0.04 + PROCESSING_EMA_WEIGHT * 0.04)
    for seq in range(200):
        here.board.handle_message(frame(call, seq))
    assert here.board.statistics.processing_s == pytest.approx(0.08, abs=0.001)
    here.board.handle_message(replace(frame(call), spans=()))
    assert here.board.statistics.processing_s == pytest.approx(0.08, abs=0.001), "a step of a greeting was not encoded"


async def test_a_second_call_is_in_phase_with_the_first() -> None:
    here = Manager()
    assert here.board.phase_s is None
    ann = here.start(ANN)
    phase_s = here.board.phase_s
    assert phase_s == ann.session.phase_s(now())
    assert phase_s is not None
    bob = here.start(BOB)
    bob.handle_event(Media(0, bytes(160)))
    bobs_s = bob.session.phase_s(now())
    assert bobs_s is not None
    assert in_phase(bobs_s, phase_s)


def in_phase(moment_s: float, phase_s: float) -> bool:
    """Less than a packet before the beat."""
    return (phase_s - moment_s + 2e-5) % FRAME_S < 0.02 + 1e-6


async def test_no_call_is_accepted_before_the_manager_starts() -> None:
    settings = read_settings(engine="loopback", codec="loopback", max_calls=2)
    board = CallManager(settings, lambda _: None, lambda: True)
    assert (board.ready, board.free_slots, board.reserve(ANN)) == (False, 0, None)
    board.start_accepting(2, processing_s=0.03)
    assert (board.ready, board.free_slots, board.statistics.processing_s) == (True, 2, 0.03)


async def test_the_last_records_are_kept_and_frame_times_of_fewer() -> None:
    here = Manager(max_calls=1)
    for number in range(RECORDS_KEPT + 5):
        call = here.start(CallSid(f"CA{number}"))
        here.board.handle_message(frame(call))
        call.end(EndReason.CALLER_HUNG_UP)
    records = here.board.records()
    assert [record.call_sid for record in records] == [f"CA{number}" for number in range(5, RECORDS_KEPT + 5)]
    assert [bool(record.spans) for record in records] == [False] * (RECORDS_KEPT - RECORDS_WITH_SPANS) + [
        True
    ] * RECORDS_WITH_SPANS


async def test_who_listens_is_told_what_happens_in_a_call() -> None:
    here = Manager()
    async with here.board.events.subscribe(ANN) as news:
        call = here.connect(ANN)
        for event in (Connected(), Started(StreamSid("MZ1"), ANN, "AC1"), DtmfPressed("5")):
            call.handle_event(event)
        here.board.handle_message(replace(frame(call), text=" Hello"))
        call.handle_event(Stopped())
        told = [event.body async for event in news]
    over = events.Disconnected(EndReason.CALLER_HUNG_UP, "")
    assert told == [events.CallStarted(), events.KeyPressed("5"), events.TextSpoken(" Hello"), over]


async def test_a_subscription_to_all_calls_finishes_when_the_service_stops() -> None:
    here = Manager()
    here.start(ANN)
    async with here.board.events.subscribe() as news:
        here.board.stop()
        assert [event.body async for event in news] == [events.Disconnected(EndReason.SHUTDOWN, "")]


@pytest.mark.parametrize(("shown", "written"), [(False, "key *"), (True, "key 7")])
async def test_a_key_is_logged_and_hidden_unless_it_may_be_shown(
    caplog: pytest.LogCaptureFixture, shown: bool, written: str
) -> None:
    here = Manager(log_digits=shown)
    call = here.start(ANN)
    with caplog.at_level("DEBUG"):
        call.handle_event(DtmfPressed("7"))
    assert [record.getMessage() for record in caplog.records] == [written]


async def test_the_key_that_ends_the_call_is_the_one_that_is_set() -> None:
    here = Manager(hangup_digit="#")
    call = here.start(ANN)
    call.handle_event(DtmfPressed("*"))
    assert here.reasons() == [None]
    call.handle_event(DtmfPressed("#"))
    assert here.reasons() == [EndReason.HANGUP_KEY]


# Errors of our own.


def broken(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("where", ["receive", "handle_frame", "handle_timer", "get_timer", "drain", "end"])
async def test_an_error_of_ours_ends_its_call_alone_and_loses_no_other_s_messages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    here = Manager()
    ann, bob = here.start(ANN), here.start(BOB)
    monkeypatch.setattr(ann.session, where, broken)
    ann.handle_event(Media(0, bytes(160)))
    here.board.handle_message(frame(ann))
    ann.handle_timer()
    here.board.hang_up(ANN)
    ann.end(EndReason.WORKER_LOST)
    bob.handle_event(Media(0, bytes(160)))
    here.board.handle_message(frame(bob))
    assert (here.board.free_slots, here.board.statistics.stream_ends[EndReason.INTERNAL]) == (1, 1)
    assert waiting(ann)[-1] is None
    assert no_timer(ann)
    assert bob.session.record.end is None
    assert bob.session.record.counts["frames_out"] == 1
    assert bob.timer is not None
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)
    assert (ann.session.record.end, ann.session.record.detail) == (EndReason.INTERNAL, "ZeroDivisionError")


async def test_an_error_of_ours_in_one_call_does_not_keep_the_others_from_ending() -> None:
    here = Manager(max_calls=3)
    ann, bob, eve = (here.start(call_sid) for call_sid in (ANN, BOB, EVE))
    for call in (ann, bob):
        call.session.end = broken  # type: ignore[assignment, method-assign]
    here.board.stop()
    assert (here.board.active_calls, eve.session.record.end) == (0, EndReason.SHUTDOWN)


async def test_a_call_whose_opening_cannot_be_sent_costs_no_slot() -> None:
    board = CallManager(read_settings(engine="loopback", codec="loopback"), broken, lambda: True)
    board.start_accepting(1, processing_s=0.0)
    assert board.reserve(ANN) is None
    assert board.free_slots == 1
    assert [record.end for record in board.records()] == [EndReason.INTERNAL]


async def test_a_packet_costs_no_work_for_other_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Manager(max_calls=3)
    call, *others = [here.start(call_sid) for call_sid in (ANN, BOB, EVE)]
    for other in others:
        for name in ("phase_s", "get_timer", "buffered_s", "receive", "handle_frame"):
            monkeypatch.setattr(other.session, name, broken)
    call.handle_event(Media(0, bytes(160)))
    here.board.handle_message(frame(call))
    assert here.reasons() == [None] * 3
    monkeypatch.setattr(call.session, "phase_s", broken)
    call.handle_event(Media(20, bytes(160)))
    assert here.reasons() == [None] * 3, "the phase is for a stream that starts"
