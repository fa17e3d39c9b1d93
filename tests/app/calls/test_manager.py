import math
import time
from dataclasses import replace

import numpy as np
import pytest

from app.audio.jitter_buffer import WAIT_S
from app.audio.playout import ClearAudio, SendAudio, SendMark
from app.calls.active_call import OUTBOX_COMMANDS, ActiveCall
from app.calls.admission import TTL_S, Reservation
from app.calls.end_reason import EndReason
from app.calls.events import EventKind
from app.calls.leg import SendFrame
from app.calls.manager import CallManager
from app.calls.registry import RECORDS_KEPT, RECORDS_WITH_SPANS
from app.calls.session import START_WITHIN_S
from app.calls.statistics import PROCESSING_EMA_WEIGHT
from app.calls.transfer import TransferBy
from app.config import read_settings
from app.twilio import twiml
from app.twilio.events import CallSid, Connected, DtmfPressed, Media, Started, Stopped, StreamSid
from tests.app.calls.front import ANN, BOB, EVE, Front
from workers.messages import FRAME_S, Close, Epoch, Failed, Frame, Open, Slot, Span, Stage


def reserved(front: Front, call_sid: CallSid) -> Reservation:
    reservation = front.manager.reserve(call_sid)
    assert reservation is not None
    return reservation


def reasons(front: Front) -> list[EndReason | None]:
    return [record.end for record in front.manager.records()]


def frame(call: ActiveCall, seq: int = 0, epoch: int | None = None) -> Frame:
    reservation = call.reservation
    spans = (Span(Stage.ENCODE, 1.0, 1.01), Span(Stage.STEP, 1.01, 1.05), Span(Stage.DECODE, 1.05, 1.08))
    pcm = np.zeros(1_920, np.float32)
    return Frame(reservation.slot, reservation.epoch if epoch is None else Epoch(epoch), seq, pcm, spans=spans)


def waiting(call: ActiveCall) -> list[int | None]:
    """What waits for the socket, as sizes; None is the order to close it."""
    items = [call.outbox.get_nowait() for _ in range(call.outbox.qsize())]
    return [len(item.payload) if item else None for item in items if item is None or isinstance(item, SendAudio)]


def send_all(call: ActiveCall) -> None:
    """Let the time come for everything that is held back for the line."""
    while (due_s := call.session.leg.audio_due_s()) < math.inf:
        call.carry_out(call.session.leg.send_audio(due_s), time.monotonic())


def no_timer(call: ActiveCall) -> bool:
    return call.timer is None or call.timer.cancelled()


def goes_off(call: ActiveCall, seconds: float, since_s: float) -> bool:
    """Whether the timer goes off so long after a moment between `since_s` and now, give or take half a second."""
    assert call.timer
    return since_s - 0.5 <= call.timer.when() - seconds <= time.monotonic() + 0.5


async def test_a_call_from_reservation_to_end() -> None:
    front = Front()
    call = front.talk(ANN)
    slot, epoch = call.reservation.slot, call.reservation.epoch
    call.handle_event(Media(0, bytes(640)))
    front.manager.handle_message(frame(call))
    send_all(call)
    assert waiting(call) == [640]
    call.carry_out(audio(5), time.monotonic())
    call.handle_event(Stopped())
    assert waiting(call) == [None], "what nobody will hear is not sent"
    assert [type(message) for message in front.sent] == [Open, Frame, Close]
    of_calls = [message for message in front.sent if isinstance(message, Open | Frame | Close)]
    assert {(message.slot, message.epoch) for message in of_calls} == {(slot, epoch)}
    assert (reasons(front), front.manager.free_slots) == ([EndReason.CALLER_HUNG_UP], 2)
    assert no_timer(call)
    call.handle_event(Media(0, bytes(640)))
    call.end(EndReason.SOCKET_LOST)
    assert (waiting(call), reasons(front)) == ([], [EndReason.CALLER_HUNG_UP]), "what comes later does nothing"


async def test_messages_of_an_earlier_call_or_of_none_are_dropped() -> None:
    front = Front(max_calls=1)
    front.manager.handle_message(Frame(Slot(0), Epoch(1), 0, None))
    front.manager.handle_message(Failed(Slot(0), Epoch(1), Stage.STEP, "why"))
    ann = front.talk(ANN)
    ann.end(EndReason.SOCKET_LOST)
    bob = front.talk(BOB)
    assert bob.reservation.slot == ann.reservation.slot
    front.manager.handle_message(frame(ann))
    front.manager.handle_message(frame(bob, epoch=0))
    send_all(bob)
    assert waiting(bob) == []
    front.manager.handle_message(frame(bob))
    send_all(bob)
    assert waiting(bob) == [640]


@pytest.mark.parametrize(("internal", "end"), [(False, EndReason.STAGE_FAILED), (True, EndReason.INTERNAL)])
async def test_a_stage_that_fails_ends_its_call_and_no_other(internal: bool, end: EndReason) -> None:
    front = Front()
    ann, bob = front.talk(ANN), front.talk(BOB)
    held = ann.reservation
    front.manager.handle_message(Failed(held.slot, held.epoch, Stage.DECODE, "broken", internal))
    assert waiting(ann) == [None]
    assert (ann.session.record.end, ann.session.record.detail) == (end, "decode: broken")
    assert bob.session.record.end is None


async def test_without_resume_a_lost_pipeline_ends_all_calls_and_is_reported_until_the_next_one_is_ready() -> None:
    front, loss = Front(max_calls=4, resume_seconds=0), "step: hangs, no answer for 3 s"
    calls = [front.talk(CallSid(f"CA{number}")) for number in range(4)]
    assert front.manager.pipeline == "ready"
    front.warm = False
    assert front.manager.pipeline == "starting"
    front.manager.on_pipeline_lost(loss)
    assert {(call.session.record.end, call.session.record.detail) for call in calls} == {(EndReason.WORKER_LOST, loss)}
    assert (front.manager.free_slots, front.manager.pipeline) == (4, loss)
    front.warm = True
    assert front.manager.pipeline == "ready"


def audio(count: int) -> list[SendAudio | SendFrame | ClearAudio]:
    return [SendAudio(bytes(640), f"0:{number}", number) for number in range(count)]


async def test_a_socket_that_takes_nothing_more_is_given_up_and_closed_first_of_all() -> None:
    front = Front()
    call = front.talk(ANN)
    assert call.outbox.get_nowait() == SendMark("0:1")
    call.carry_out(audio(OUTBOX_COMMANDS), time.monotonic())
    assert call.session.record.end is None
    call.carry_out([ClearAudio(), *audio(20), SendFrame(5, np.zeros(1_920, np.float32))], time.monotonic())
    assert reasons(front) == [EndReason.SOCKET_BLOCKED]
    assert waiting(call) == [None], "what nobody will hear is not sent"
    assert no_timer(call)
    assert front.manager.free_slots == 2


async def test_a_repeated_webhook_is_the_same_call_until_its_socket_comes() -> None:
    front = Front()
    first = reserved(front, ANN)
    assert reserved(front, ANN) == first
    front.manager.claim(first.token)
    assert (front.manager.reserve(ANN), front.manager.free_slots) == (None, 1), "a call never has two slots"


async def test_a_token_is_good_once_until_it_expires_or_its_call_ends() -> None:
    now_s = 100.0
    front = Front(max_calls=3, clock=lambda: now_s)
    ann, bob, eve = (reserved(front, call_sid) for call_sid in (ANN, BOB, EVE))
    assert [front.manager.claim(token) for token in ("guess", "")] == [None, None]
    now_s = ann.expires_s - 0.1
    assert [front.manager.claim(ann.token), front.manager.claim(ann.token)] == [front.manager.call(ANN), None]
    if call := front.manager.call(BOB):
        call.end(EndReason.CALLER_HUNG_UP)
    assert front.manager.claim(bob.token) is None
    now_s = eve.expires_s
    assert front.manager.claim(eve.token) is None


async def test_each_webhook_of_a_call_that_is_on_gives_its_next_stream_the_whole_time_to_come() -> None:
    now_s = 100.0
    front = Front(clock=lambda: now_s)
    old = front.talk(ANN)
    first = front.ring(ANN, webhook_token="repeated by a proxy")
    now_s += TTL_S - 0.5
    second = front.ring(ANN, webhook_token="of a call whose stream was lost unnoticed")
    assert second == first
    now_s += TTL_S - 0.1
    new = front.open_socket(second)
    assert (new.session.record.call_sid, old.session.stream.end) == (ANN, EndReason.REPLACED)
    assert new.session.stream.webhook_token == "of a call whose stream was lost unnoticed"
    again = front.ring(ANN, webhook_token="of one more")
    now_s += TTL_S
    assert isinstance(again, twiml.Connect)
    assert front.manager.claim(again.url.rpartition("/")[2]) is None
    assert not new.over


async def test_no_call_is_taken_while_a_worker_is_down_or_all_slots_are_taken_or_the_service_stops() -> None:
    front = Front(max_calls=1)
    front.warm = False
    assert (front.manager.ready, front.manager.reserve(ANN)) == (False, None)
    front.warm = True
    token = reserved(front, ANN).token
    assert (front.manager.ready, front.manager.reserve(BOB)) == (False, None)
    front.manager.stop()
    assert front.manager.free_slots == 1
    assert (front.manager.ready, front.manager.reserve(EVE), front.manager.claim(token)) == (False, None, None)


async def test_no_call_is_accepted_before_the_manager_starts() -> None:
    manager = CallManager(read_settings(engine="loopback", codec="loopback"), lambda _: None, lambda: True)
    assert (manager.ready, manager.free_slots, manager.reserve(ANN)) == (False, 0, None)
    manager.start_accepting(2, processing_s=0.03)
    assert (manager.ready, manager.free_slots, manager.statistics.processing_s) == (True, 2, 0.03)


async def test_when_the_service_stops_all_calls_and_subscriptions_end() -> None:
    front = Front()
    ann = front.talk(ANN)
    reserved(front, BOB)
    async with front.manager.events.subscribe() as events:
        front.manager.stop()
        assert [event.kind async for event in events] == [EventKind.DISCONNECTED] * 2
    assert reasons(front) == [EndReason.SHUTDOWN] * 2
    assert waiting(ann) == [None]


async def test_a_timer_runs_for_every_call_until_it_ends_and_is_not_set_again_per_packet() -> None:
    front, before = Front(), time.monotonic()
    token = reserved(front, ANN).token
    (call,) = front.manager.calls
    assert goes_off(call, TTL_S, before)
    front.manager.claim(token)
    assert goes_off(call, START_WITHIN_S, before)
    for event in (Connected(), Started(StreamSid("MZ1"), ANN, "AC1")):
        call.handle_event(event)
    assert goes_off(call, FRAME_S + WAIT_S[0], before), "the first frame of silence"
    timer, came_s = call.timer, time.monotonic()
    call.handle_event(Media(60, bytes(160)))
    assert call.session.get_timer() > came_s + FRAME_S, "the next frame is due later"
    assert call.timer is timer, "setting one for every packet would cost more than looking again"
    call.end(EndReason.SHUTDOWN)
    assert timer
    assert timer.cancelled()


async def test_the_time_in_the_workers_is_an_average_that_follows_slowly() -> None:
    front = Front()
    call, statistics = front.talk(ANN), front.manager.statistics
    statistics.processing_s = 0.04
    front.manager.handle_message(frame(call))
    assert statistics.processing_s == pytest.approx(0.04 + PROCESSING_EMA_WEIGHT * 0.04)
    for seq in range(200):
        front.manager.handle_message(frame(call, seq))
    assert statistics.processing_s == pytest.approx(0.08, abs=0.001)
    front.manager.handle_message(replace(frame(call), spans=()))
    assert statistics.processing_s == pytest.approx(0.08, abs=0.001), "a step of a greeting was not encoded"


async def test_a_second_call_is_in_phase_with_the_first() -> None:
    front = Front()
    assert front.manager.phase_s is None
    front.talk(ANN)
    phase_s, bob = front.manager.phase_s, front.talk(BOB)
    bob.handle_event(Media(0, bytes(160)))
    bobs_s = bob.session.phase_s(time.monotonic())
    assert phase_s is not None
    assert bobs_s is not None
    assert (phase_s - bobs_s + 2e-5) % FRAME_S < 0.02 + 1e-6, "less than a packet before the other"


async def test_the_last_records_are_kept_and_frame_times_of_fewer() -> None:
    front = Front(max_calls=1)
    for number in range(RECORDS_KEPT + 5):
        call = front.talk(CallSid(f"CA{number}"))
        front.manager.handle_message(frame(call))
        call.end(EndReason.CALLER_HUNG_UP)
    records = front.manager.records()
    assert [record.call_sid for record in records] == [f"CA{number}" for number in range(5, RECORDS_KEPT + 5)]
    with_spans = [number for number, record in enumerate(records) if record.spans]
    assert with_spans == list(range(RECORDS_KEPT - RECORDS_WITH_SPANS, RECORDS_KEPT))


async def test_the_record_of_a_call_that_is_with_a_person_is_kept_longer_though_not_at_any_price() -> None:
    front = Front(max_calls=1)
    transfers = []
    for number in range(RECORDS_KEPT // 2 + 1):
        call = front.talk(CallSid(f"CAaway{number}"))
        transfers.append(call.begin_transfer("+15550100009", TransferBy.KEY))
        call.handle_event(Stopped())
    for number in range(RECORDS_KEPT):
        front.talk(CallSid(f"CA{number}")).end(EndReason.CALLER_HUNG_UP)
    for number in range(len(transfers)):
        front.manager.end_transfer(CallSid(f"CAaway{number}"), "completed", 61)
    assert [transfer.status for transfer in transfers] == ["", *["completed"] * (RECORDS_KEPT // 2)]
    assert len(front.manager.records()) == RECORDS_KEPT
    front.talk(ANN).end(EndReason.CALLER_HUNG_UP)
    assert front.manager.record(CallSid("CAaway1")) is None, "it is as any other now"


async def test_records_of_calls_that_are_over_can_be_dropped() -> None:
    front = Front()
    for call_sid in (ANN, BOB):
        front.talk(call_sid).end(EndReason.SOCKET_LOST)
    front.talk(EVE)
    assert front.manager.drop_ended({ANN, EVE, "CAunknown"}) == [ANN]
    assert [record.call_sid for record in front.manager.records()] == [BOB, EVE]
    assert front.manager.record(ANN) is None


@pytest.mark.parametrize(("shown", "written"), [(False, "key *"), (True, "key 7")])
async def test_a_key_is_published_and_logged_hidden_unless_it_may_be_shown(
    caplog: pytest.LogCaptureFixture, shown: bool, written: str
) -> None:
    front = Front(log_digits=shown, hangup_digit="#")
    async with front.manager.events.subscribe(ANN) as events:
        call = front.talk(ANN)
        with caplog.at_level("DEBUG"):
            call.handle_event(DtmfPressed("7"))
        assert [record.getMessage() for record in caplog.records] == [written]
        front.manager.handle_message(replace(frame(call), text=" Hello"))
        call.handle_event(DtmfPressed("#"))
        kinds = [event.kind async for event in events]
    assert kinds == [EventKind(one) for one in ("connected", "dtmf", "dtmf", "word", "disconnected")]
    assert reasons(front) == [EndReason.HANGUP_KEY]


# Errors of our own.


def broken(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("where", ["receive", "handle_frame", "handle_timer", "get_timer", "drain", "end"])
async def test_an_error_of_ours_ends_its_call_alone_and_loses_no_other_s_messages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    front = Front()
    ann, bob = front.talk(ANN), front.talk(BOB)
    monkeypatch.setattr(ann.session, where, broken)
    ann.handle_event(Media(0, bytes(160)))
    front.manager.handle_message(frame(ann))
    ann.handle_timer()
    front.manager.hang_up(ANN)
    ann.end(EndReason.WORKER_LOST)
    bob.handle_event(Media(0, bytes(160)))
    front.manager.handle_message(frame(bob))
    assert (front.manager.free_slots, front.manager.statistics.stream_ends[EndReason.INTERNAL]) == (1, 1)
    assert waiting(ann)[-1] is None
    assert no_timer(ann)
    assert (bob.session.record.end, bob.session.record.counts["frames_out"], no_timer(bob)) == (None, 1, False)
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)
    assert (ann.session.record.end, ann.session.record.detail) == (EndReason.INTERNAL, "ZeroDivisionError")


async def test_an_error_of_ours_in_one_call_does_not_keep_the_others_from_ending() -> None:
    front = Front(max_calls=3)
    ann, bob, eve = (front.talk(call_sid) for call_sid in (ANN, BOB, EVE))
    for call in (ann, bob):
        call.session.end = broken  # type: ignore[assignment, method-assign]
    front.manager.stop()
    assert (front.manager.active_calls, eve.session.record.end) == (0, EndReason.SHUTDOWN)


async def test_a_call_whose_opening_cannot_be_sent_costs_no_slot() -> None:
    manager = CallManager(read_settings(engine="loopback", codec="loopback"), broken, lambda: True)
    manager.start_accepting(1, processing_s=0.0)
    assert (manager.reserve(ANN), manager.free_slots) == (None, 1)
    assert [record.end for record in manager.records()] == [EndReason.INTERNAL]


async def test_a_packet_costs_no_work_for_other_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front(max_calls=3)
    call, *others = [front.talk(call_sid) for call_sid in (ANN, BOB, EVE)]
    for other in others:
        for name in ("phase_s", "get_timer", "receive", "handle_frame"):
            monkeypatch.setattr(other.session, name, broken)
    monkeypatch.setattr(call.session, "phase_s", broken)  # the phase is for a stream that starts
    call.handle_event(Media(0, bytes(160)))
    front.manager.handle_message(frame(call))
    assert reasons(front) == [None] * 3
