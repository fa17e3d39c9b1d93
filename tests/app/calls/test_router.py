import logging

import pytest

from app.calls.record import EndReason
from app.calls.waiting_callers import PAUSE_S
from app.twilio import twiml
from app.twilio.events import CallSid, Stopped
from app.twilio.twiml import Connect, Enqueue, Hangup, Leave, Pause, Reject, Say
from tests.app.calls.front import ANN, BASE_URL, BOB, DAN, EVE, KIM, Front, form, settle, verbs

VOICE_URL = f"{BASE_URL}/twilio/voice"
MODES = ["reject", "say", "queue"]


# All slots taken.


async def test_by_default_a_call_too_many_hears_the_busy_tone() -> None:
    front = Front()
    assert list(verbs(front, [ANN, BOB])) == [Connect, Connect]
    assert front.ring(EVE) == Reject("busy")


async def test_a_call_too_many_may_hear_a_sentence() -> None:
    front = Front(when_busy="say", busy_sentence="Nobody is free.")
    list(verbs(front, [ANN, BOB]))
    assert front.ring(EVE) == Say("Nobody is free.")
    assert front.board.active_calls == 2


async def test_a_call_too_many_may_wait_in_line() -> None:
    front = Front(when_busy="queue")
    list(verbs(front, [ANN, BOB]))
    assert front.ring(EVE) == Enqueue(f"{BASE_URL}/twilio/wait", f"{BASE_URL}/twilio/after-wait")
    assert front.page(EVE) == Pause(PAUSE_S)
    assert len(front.call_queue) == 1


async def test_a_line_that_is_full_rejects() -> None:
    front = Front(when_busy="queue", queue_length=1)
    assert list(verbs(front, [ANN, BOB, EVE, DAN])) == [Connect, Connect, Enqueue, Reject]


@pytest.mark.parametrize("mode", MODES)
async def test_who_calls_while_the_service_drains_hears_the_busy_tone(mode: str) -> None:
    front = Front(when_busy=mode)
    front.board.stop_accepting()
    assert front.ring(ANN) == Reject("busy")


@pytest.mark.parametrize("mode", MODES)
async def test_who_calls_before_the_service_is_ready_hears_the_busy_tone(mode: str) -> None:
    front = Front(when_busy=mode)
    front.board.accepting = False
    assert front.ring(ANN) == Reject("busy")


# The line.


async def test_a_slot_that_comes_free_is_reserved_for_the_first_in_line_who_is_then_redirected() -> None:
    front = Front(when_busy="queue")
    ann = front.talk(ANN)
    list(verbs(front, [BOB, EVE, DAN]))
    async with front.redirecting():
        front.board.end(ann, EndReason.CALLER_HUNG_UP)
        assert front.board.holds(EVE)
    assert front.redirector.redirected == [(EVE, VOICE_URL)]
    assert front.redirector.unreserved == []
    assert isinstance(front.ring(EVE), Connect)
    assert (front.board.active_calls, len(front.call_queue)) == (2, 1)


async def test_each_slot_that_comes_free_goes_to_the_next_in_line() -> None:
    front = Front(when_busy="queue")
    calls = [front.talk(ANN), front.talk(BOB)]
    list(verbs(front, [EVE, DAN, KIM]))
    async with front.redirecting():
        for call in calls:
            front.board.end(call, EndReason.CALLER_HUNG_UP)
        await settle()
        front.board.end(front.open_socket(front.ring(EVE)), EndReason.CALLER_HUNG_UP)
    assert [call_sid for call_sid, _ in front.redirector.redirected] == [EVE, DAN, KIM]


async def test_nobody_overtakes_those_who_wait() -> None:
    front = Front(when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    front.ring(BOB)
    front.warm = False
    front.board.end(ann, EndReason.WORKER_LOST)
    front.warm = True
    assert isinstance(front.ring(EVE), Enqueue)
    assert front.board.holds(BOB)


async def test_when_the_workers_are_back_the_next_wait_page_gives_the_slots_out() -> None:
    front = Front(when_busy="queue", max_calls=1)
    front.warm = False
    assert isinstance(front.ring(ANN), Enqueue)
    assert front.page(ANN) == Pause(PAUSE_S)
    front.warm = True
    async with front.redirecting():
        assert front.page(ANN) == Pause(PAUSE_S)
    assert front.redirector.redirected == [(ANN, VOICE_URL)]


@pytest.mark.parametrize("has_dialler", [True, False])
async def test_who_cannot_be_redirected_is_put_through_with_his_next_wait_page(has_dialler: bool) -> None:
    front = Front(has_dialler, when_busy="queue", max_calls=1)
    front.redirector.fails = {BOB}
    ann = front.talk(ANN)
    front.ring(BOB)
    async with front.redirecting():
        front.board.end(ann, EndReason.CALLER_HUNG_UP)
    assert front.page(BOB) == Leave()
    assert isinstance(front.left(BOB, "leave"), Connect)
    assert front.board.active_calls == 1


async def test_who_hangs_up_before_the_redirect_goes_out_is_not_redirected() -> None:
    front = Front(when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    front.ring(BOB)
    async with front.redirecting():
        front.board.end(ann, EndReason.CALLER_HUNG_UP)
        front.left(BOB, "hangup")
    assert front.redirector.redirected == []


async def test_who_has_been_redirected_is_not_told_to_leave_as_well() -> None:
    front = Front(when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    front.ring(BOB)
    async with front.redirecting():
        front.board.end(ann, EndReason.CALLER_HUNG_UP)
        assert front.page(BOB) == Pause(PAUSE_S)
        await settle()
        assert front.page(BOB) == Pause(PAUSE_S)


async def test_a_redirected_call_may_ask_the_action_first_and_gets_the_same_slot() -> None:
    front = Front(when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    front.ring(BOB)
    front.board.end(ann, EndReason.CALLER_HUNG_UP)
    assert front.left(BOB, "redirected") == front.ring(BOB)


async def test_who_does_not_come_in_time_loses_the_slot_to_the_next() -> None:
    front = Front(when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    list(verbs(front, [BOB, EVE]))
    async with front.redirecting():
        front.board.end(ann, EndReason.CALLER_HUNG_UP)
        await settle()
        bob = front.board.call(BOB)
        assert bob
        front.board.do(bob, bob.session.handle_timer(bob.reservation.expires_s))
    assert [call_sid for call_sid, _ in front.redirector.redirected] == [BOB, EVE]
    assert front.page(BOB) == Pause(PAUSE_S), "at the end of the line, if he is still there"
    assert BOB in front.call_queue


@pytest.mark.parametrize("how", ["action", "status"])
async def test_who_hangs_up_while_waiting_leaves_the_line(how: str) -> None:
    front = Front(when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    list(verbs(front, [BOB, EVE]))
    if how == "action":
        assert front.left(BOB, "hangup") == Hangup()
    else:
        front.tell(BOB, CallStatus="completed")
    async with front.redirecting():
        front.board.end(ann, EndReason.CALLER_HUNG_UP)
    assert [call_sid for call_sid, _ in front.redirector.redirected] == [EVE]


@pytest.mark.parametrize("how", ["action", "status"])
async def test_who_hangs_up_when_it_is_his_turn_gives_the_slot_to_the_next(how: str) -> None:
    front = Front(when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    list(verbs(front, [BOB, EVE]))
    async with front.redirecting():
        front.board.end(ann, EndReason.CALLER_HUNG_UP)
        assert front.board.holds(BOB)
        front.left(BOB, "hangup") if how == "action" else front.tell(BOB, CallStatus="completed")
        assert front.board.holds(EVE)
    assert (front.board.active_calls, len(front.call_queue)) == (1, 0)


async def test_the_action_of_a_call_that_talks_already_does_not_end_it() -> None:
    front = Front(when_busy="queue")
    ann = front.talk(ANN)
    front.left(ANN, "hangup")
    assert ann.session.record.end is None


async def test_who_waits_while_the_service_begins_to_drain_is_hung_up_on_and_who_has_a_slot_is_not() -> None:
    front = Front(when_busy="queue", max_calls=1)
    front.ring(ANN)
    front.ring(BOB)
    front.board.stop_accepting()
    assert front.page(BOB) == Hangup()
    front.open_socket(front.ring(ANN))


async def test_a_service_that_was_started_anew_learns_its_line_from_those_who_wait() -> None:
    front = Front(when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    assert [front.page(call_sid) for call_sid in (BOB, EVE)] == [Pause(PAUSE_S)] * 2
    async with front.redirecting():
        front.board.end(ann, EndReason.CALLER_HUNG_UP)
    assert front.redirector.redirected == [(BOB, VOICE_URL)]


# Numbers.


async def test_a_blocked_number_is_rejected_and_its_number_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    front = Front(blocked_callers="+1555*")
    with caplog.at_level(logging.INFO):
        assert front.ring(ANN, "+15550109876") == Reject("rejected")
    assert "…9876 rejected: the number is blocked" in caplog.text
    assert "+15550109876" not in caplog.text
    assert isinstance(front.ring(BOB, "+4930123456"), Connect)


async def test_a_number_that_calls_too_often_is_rejected() -> None:
    front = Front(calls_per_number_per_hour=1)
    front.board.end(front.talk(ANN), EndReason.CALLER_HUNG_UP)
    assert front.ring(BOB) == Reject("rejected")
    assert isinstance(front.ring(BOB, "+4930123456"), Connect)


async def test_a_call_that_we_place_is_not_screened_for_the_number_is_ours() -> None:
    front = Front(calls_per_number_per_hour=1, blocked_callers="+1555*")
    for call_sid in (ANN, BOB):
        answer = front.call_router.answer(form(call_sid, Direction="outbound-api"))
        assert isinstance(twiml.parse(answer)[0], Connect)


async def test_a_webhook_that_twilio_repeats_is_one_call() -> None:
    front = Front(calls_per_number_per_hour=1)
    assert front.ring(ANN) == front.ring(ANN)


async def test_a_call_that_waited_is_one_call() -> None:
    front = Front(when_busy="queue", max_calls=1, calls_per_number_per_hour=1)
    ann = front.talk(ANN)
    assert isinstance(front.ring(BOB, "+4930123456"), Enqueue)
    assert isinstance(front.ring(BOB, "+4930123456"), Enqueue)
    front.board.end(ann, EndReason.CALLER_HUNG_UP)
    assert isinstance(front.ring(BOB, "+4930123456"), Connect)


async def test_a_call_that_was_turned_down_does_not_count() -> None:
    front = Front(max_calls=1, calls_per_number_per_hour=1)
    ann = front.talk(ANN)
    assert front.ring(BOB, "+4930123456") == Reject("busy")
    front.board.end(ann, EndReason.CALLER_HUNG_UP)
    assert isinstance(front.ring(EVE, "+4930123456"), Connect)


# What Twilio tells.


async def test_a_stream_that_cannot_be_opened_gives_its_slot_back_and_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = Front(max_calls=1)
    front.ring(ANN)
    front.tell(ANN, StreamEvent="stream-error", StreamError="31920 Handshake Error", StreamSid="MZ1")
    record = front.board.record(ANN)
    assert record is not None
    assert (record.end, record.error_code) == (EndReason.NO_SOCKET, 31920)
    assert "PUBLIC_URL" in record.detail
    assert "31920" in caplog.text
    assert front.board.free_slots == 1


async def test_trouble_with_a_stream_that_is_on_does_not_end_the_call() -> None:
    front = Front()
    ann = front.talk(ANN)
    front.tell(ANN, StreamEvent="stream-error", StreamError="31951 Invalid Message")
    assert (ann.session.record.end, ann.session.record.error_code) == (None, 31951)


@pytest.mark.parametrize("status", ["completed", "busy", "failed", "no-answer", "canceled"])
async def test_a_call_that_is_over_gives_its_slot_back_before_its_socket_has_come(status: str) -> None:
    front = Front()
    front.ring(ANN)
    front.tell(ANN, CallStatus=status)
    assert front.board.active_calls == 0
    assert front.board.record(ANN) is not None


async def test_a_call_that_is_over_ends_even_if_its_socket_stays_open() -> None:
    front = Front()
    ann = front.talk(ANN)
    front.tell(ANN, CallStatus="completed", CallDuration="12")
    record = ann.session.record
    assert (record.end, record.status, record.duration_s) == (EndReason.CALLER_HUNG_UP, "completed", 12)


async def test_the_status_of_a_call_that_goes_on_is_kept_and_ends_nothing() -> None:
    front = Front()
    ann = front.talk(ANN)
    front.tell(ANN, CallStatus="in-progress")
    front.tell(ANN, StreamEvent="stream-started")
    assert (ann.session.record.end, ann.session.record.status) == (None, "in-progress")


async def test_what_comes_after_the_end_of_a_call_is_still_written_down() -> None:
    front = Front()
    ann = front.talk(ANN)
    front.board.do(ann, ann.session.receive(Stopped(), ann.session.record.reserved_s))
    front.tell(ANN, CallStatus="completed", CallDuration="12")
    record = front.board.record(ANN)
    assert record is not None
    assert (record.end, record.duration_s) == (EndReason.CALLER_HUNG_UP, 12)


async def test_the_status_of_a_call_that_nobody_knows_harms_nothing() -> None:
    front = Front()
    front.tell(CallSid("CAnobody"), CallStatus="completed")
    front.call_router.handle_status(form(ANN))
    assert front.board.records() == []
