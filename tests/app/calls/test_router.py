import logging
from typing import Any

import pytest

from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from app.calls.personas import Chosen, gather, parse_persona
from app.calls.queue import PAUSE_S
from app.twilio import twiml
from app.twilio.errors import CarrierError
from app.twilio.events import CallSid, Stopped
from app.twilio.twiml import Connect, Enqueue, Hangup, Leave, Pause, Reject, SayVerb
from tests.app.calls.front import ANN, BASE_URL, BOB, DAN, EVE, KIM, Front, form, settle
from workers.messages import CallPersona, Open

VOICE_URL = f"{BASE_URL}/twilio/voice"
ENQUEUE = Enqueue(f"{BASE_URL}/twilio/wait", f"{BASE_URL}/twilio/after-wait")


def taken(*waiting: CallSid) -> tuple[Front, ActiveCall]:
    """Return a front whose one slot has a call, for which these callers wait; and that call."""
    front = Front(when_busy="queue", max_calls=1)
    call = front.talk(ANN)
    for call_sid in waiting:
        assert front.ring(call_sid) == ENQUEUE
    return front, call


async def free_slot(front: Front, call: ActiveCall) -> None:
    """End a call, and let whoever is first in the queue be redirected."""
    async with front.redirecting():
        call.end(EndReason.CALLER_HUNG_UP)


# All slots taken.


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({}, [Reject("busy")]),
        ({"when_busy": "say", "busy_sentence": "Nobody is free."}, [SayVerb("Nobody is free.")]),
        ({"when_busy": "queue", "queue_length": 1}, [ENQUEUE, Reject("busy")]),
    ],
)
async def test_what_a_call_too_many_is_answered(changes: dict[str, Any], answers: list[twiml.Verb]) -> None:
    front = Front(**changes)
    assert [type(front.ring(call_sid)) for call_sid in (ANN, BOB)] == [Connect, Connect]
    assert [front.ring(call_sid) for call_sid in [EVE, DAN][: len(answers)]] == answers
    assert front.manager.active_calls == 2
    if ENQUEUE in answers:
        assert (front.page(EVE), len(front.call_queue)) == (Pause(PAUSE_S), 1)


@pytest.mark.parametrize("mode", ["reject", "say", "queue"])
async def test_who_calls_while_the_service_drains_or_before_it_is_ready_hears_the_busy_tone(mode: str) -> None:
    front = Front(when_busy=mode)
    front.manager.accepting = False
    assert front.ring(ANN) == Reject("busy")
    front.manager.stop_accepting()
    assert front.ring(ANN) == Reject("busy")


# The queue.


async def test_each_slot_that_comes_free_goes_to_the_next_in_the_queue() -> None:
    front = Front(when_busy="queue")
    calls = [front.talk(ANN), front.talk(BOB)]
    assert [front.ring(call_sid) for call_sid in (EVE, DAN, KIM)] == [ENQUEUE] * 3
    async with front.redirecting():
        for call in calls:
            call.end(EndReason.CALLER_HUNG_UP)
        assert (front.manager.holds(EVE), front.manager.holds(DAN), len(front.call_queue)) == (True, True, 1)
        await settle()
        assert front.left(EVE, "redirected") == front.ring(EVE), "a redirected call may ask the action first"
        front.open_socket(front.ring(EVE)).end(EndReason.CALLER_HUNG_UP)
    assert front.redirector.redirected == [(call_sid, VOICE_URL) for call_sid in (EVE, DAN, KIM)]
    assert front.redirector.unreserved == []


async def test_nobody_overtakes_those_who_wait() -> None:
    front, ann = taken(BOB)
    front.warm = False
    ann.end(EndReason.WORKER_LOST)
    front.warm = True
    assert isinstance(front.ring(EVE), Enqueue)
    assert front.manager.holds(BOB)


async def test_when_the_workers_are_back_the_next_wait_page_gives_the_slots_out() -> None:
    front = Front(when_busy="queue", max_calls=1)
    front.warm = False
    assert isinstance(front.ring(ANN), Enqueue)
    assert front.page(ANN) == Pause(PAUSE_S)
    front.warm = True
    async with front.redirecting():
        assert front.page(ANN) == Pause(PAUSE_S)
    assert front.redirector.redirected == [(ANN, VOICE_URL)]


@pytest.mark.parametrize("has_redirector", [True, False])
async def test_who_cannot_be_redirected_is_put_through_with_the_next_wait_page(has_redirector: bool) -> None:
    front = Front(has_redirector, when_busy="queue", max_calls=1)
    front.redirector.fails = {BOB}
    ann = front.talk(ANN)
    front.ring(BOB)
    await free_slot(front, ann)
    assert front.page(BOB) == Leave()
    assert isinstance(front.left(BOB, "leave"), Connect)
    assert front.manager.active_calls == 1


@pytest.mark.parametrize(("error", "has_traceback"), [(CarrierError("HTTP 500"), False), (KeyError("bug"), True)])
async def test_an_error_of_ours_in_redirecting_is_logged_with_its_traceback(
    error: Exception, has_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    front, ann = taken(BOB)
    front.redirector.fails, front.redirector.error = {BOB}, error
    await free_slot(front, ann)
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert (warning.name, bool(warning.exc_info)) == ("app.calls.queue", has_traceback)


async def test_who_has_been_redirected_is_not_told_to_leave_as_well() -> None:
    front, ann = taken(BOB)
    async with front.redirecting():
        ann.end(EndReason.CALLER_HUNG_UP)
        assert front.page(BOB) == Pause(PAUSE_S)
        await settle()
        assert front.page(BOB) == Pause(PAUSE_S)


async def test_who_does_not_come_in_time_loses_the_slot_to_the_next() -> None:
    front, ann = taken(BOB, EVE)
    async with front.redirecting():
        ann.end(EndReason.CALLER_HUNG_UP)
        await settle()
        bob = front.manager.call(BOB)
        assert bob
        bob.carry_out(bob.session.handle_timer(bob.reservation.expires_s), bob.clock())
    assert [call_sid for call_sid, _ in front.redirector.redirected] == [BOB, EVE]
    assert front.page(BOB) == Pause(PAUSE_S), "at the end of the queue, if they are still there"
    assert BOB in front.call_queue


def hang_up(front: Front, call_sid: CallSid, how: str) -> None:
    if how == "action":
        assert front.left(call_sid, "hangup") == Hangup()
    else:
        front.post_status(call_sid, CallStatus="completed")


@pytest.mark.parametrize("how", ["action", "status"])
async def test_who_hangs_up_while_waiting_leaves_the_queue(how: str) -> None:
    front, ann = taken(BOB, EVE)
    hang_up(front, BOB, how)
    await free_slot(front, ann)
    assert [call_sid for call_sid, _ in front.redirector.redirected] == [EVE]


@pytest.mark.parametrize("how", ["action", "status"])
async def test_who_hangs_up_when_it_is_their_turn_gives_the_slot_to_the_next(how: str) -> None:
    front, ann = taken(BOB, EVE)
    async with front.redirecting():
        ann.end(EndReason.CALLER_HUNG_UP)
        assert front.manager.holds(BOB)
        hang_up(front, BOB, how)
        assert front.manager.holds(EVE)
    assert (front.manager.active_calls, len(front.call_queue)) == (1, 0)
    assert [call_sid for call_sid, _ in front.redirector.redirected] == [EVE], "Bob hung up before the redirect"


async def test_the_action_of_a_call_that_talks_already_does_not_end_it() -> None:
    front = Front(when_busy="queue")
    ann = front.talk(ANN)
    front.left(ANN, "hangup")
    assert ann.session.record.end is None


async def test_who_waits_while_the_service_begins_to_drain_is_hung_up_on_and_who_has_a_slot_is_not() -> None:
    front = Front(when_busy="queue", max_calls=1)
    front.ring(ANN)
    front.ring(BOB)
    front.manager.stop_accepting()
    assert front.page(BOB) == Hangup()
    front.open_socket(front.ring(ANN))


async def test_a_service_that_was_started_anew_learns_its_queue_from_those_who_wait() -> None:
    front, ann = taken()
    front.manager.accepting = False
    assert front.page(BOB) == Pause(PAUSE_S), "it starts: they keep waiting"
    front.manager.accepting = True
    assert [front.page(call_sid) for call_sid in (BOB, EVE)] == [Pause(PAUSE_S)] * 2
    await free_slot(front, ann)
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
    front = Front(max_calls=1, calls_per_number_per_hour=1)
    ann = front.talk(ANN)
    assert front.ring(BOB, "+4930123456") == Reject("busy"), "which does not count"
    ann.end(EndReason.CALLER_HUNG_UP)
    assert front.ring(BOB) == Reject("rejected")
    assert isinstance(front.ring(BOB, "+4930123456"), Connect)


async def test_a_call_that_we_place_is_not_screened_for_the_number_is_ours() -> None:
    front = Front(calls_per_number_per_hour=1, blocked_callers="+1555*")
    for call_sid in (ANN, BOB):
        answer = front.call_router.answer(form(call_sid, Direction="outbound-api"))
        assert isinstance(twiml.parse(answer)[0], Connect)


async def test_a_call_that_waited_is_one_call() -> None:
    front = Front(when_busy="queue", max_calls=1, calls_per_number_per_hour=1)
    ann = front.talk(ANN)
    assert isinstance(front.ring(BOB, "+4930123456"), Enqueue)
    assert isinstance(front.ring(BOB, "+4930123456"), Enqueue)
    ann.end(EndReason.CALLER_HUNG_UP)
    assert isinstance(front.ring(BOB, "+4930123456"), Connect)
    assert isinstance(front.ring(BOB, "+4930123456"), Connect), "nor does a repeated webhook count"


# What Twilio tells.


async def test_a_stream_that_cannot_be_opened_gives_its_slot_back_and_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = Front(max_calls=1)
    front.ring(ANN)
    front.post_status(ANN, StreamEvent="stream-error", StreamError="31920 Handshake Error", StreamSid="MZ1")
    record = front.manager.record(ANN)
    assert record is not None
    assert (record.end, record.error_code) == (EndReason.NO_SOCKET, 31920)
    assert "PUBLIC_URL" in record.detail
    assert "31920" in caplog.text
    assert front.manager.free_slots == 1


@pytest.mark.parametrize("status", ["completed", "busy", "failed", "no-answer", "canceled"])
async def test_a_call_that_is_over_gives_its_slot_back_before_its_socket_has_come(status: str) -> None:
    front = Front()
    front.ring(ANN)
    front.post_status(ANN, CallStatus=status)
    assert front.manager.active_calls == 0
    assert front.manager.record(ANN) is not None


async def test_the_status_of_a_call_that_goes_on_is_recorded_and_that_it_is_over_ends_it() -> None:
    front = Front()
    ann, bob = front.talk(ANN), front.talk(BOB)
    front.post_status(ANN, StreamEvent="stream-started")
    front.post_status(ANN, CallStatus="in-progress")
    front.post_status(ANN, StreamEvent="stream-error", StreamError="31951 Invalid Message")
    record = ann.session.record
    assert (record.end, record.status, record.error_code) == (None, "in-progress", 31951)
    bob.handle_event(Stopped())
    for call_sid in (ANN, BOB):
        front.post_status(call_sid, CallStatus="completed", CallDuration="12")
    for record in front.manager.records():
        assert (record.end, record.status, record.duration_s) == (EndReason.CALLER_HUNG_UP, "completed", 12)


async def test_the_status_of_a_call_that_nobody_knows_harms_nothing() -> None:
    front = Front()
    front.post_status(CallSid("CAnobody"), CallStatus="completed")
    front.call_router.handle_status(form(ANN))
    assert front.manager.records() == []


# Who speaks.


FILES = {
    "ada": 'numbers = ["+15551234567"]\ngreeting = "Hello! I am Ada."\n[sampling]\ntext_top_k = 7',
    "bob": 'greeting = "Bob here."',
    "eve": "",
}
PERSONAS = gather([(name, parse_persona(f"{name}.toml", text)) for name, text in FILES.items()], "eve")


def choose(name: str, called: str, prompt: str) -> Chosen:
    """Who speaks, where one prompt is prepared."""
    one = PERSONAS.choose(name, called)
    prepared = prompt if prompt == "known" else ""
    return Chosen(one.name, CallPersona(one.greeting, prompt=prepared, sampling=one.sampling.given))


def opened(front: Front) -> list[Open]:
    return [message for message in front.sent if isinstance(message, Open)]


async def test_each_of_two_calls_opens_with_its_persona() -> None:
    front = Front(choose=choose)
    front.ring(ANN, To="tel:+1-555-123-4567")
    front.ring(BOB, query="greeting_frames=5&persona=bob")
    assert [message.persona for message in opened(front)] == [
        CallPersona("Hello! I am Ada.", sampling=(("text_top_k", 7),)),
        CallPersona("Bob here."),
    ]
    assert [call.session.record.persona for call in front.manager.calls] == ["ada", "bob"]


@pytest.mark.parametrize(("called", "speaks"), [("+15551234567", "ada"), ("+15550000000", "eve")])
async def test_an_unknown_persona_is_that_of_the_number_or_the_default_with_a_warning(
    called: str, speaks: str, caplog: pytest.LogCaptureFixture
) -> None:
    front = Front(choose=choose)
    front.ring(ANN, query="persona=nobody%0A", To=called)
    assert front.manager.calls[0].session.record.persona == speaks
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.endswith(f"there is no persona 'nobody\\n', {speaks} speaks")


@pytest.mark.parametrize(("prompt", "opens_with", "warnings"), [("known", "known", 0), ("used", "", 1)])
async def test_a_call_opens_with_the_prompt_that_its_url_names_or_without_and_a_warning(
    prompt: str, opens_with: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    front = Front(choose=choose)
    assert isinstance(front.ring(ANN, query=f"persona=bob&prompt={prompt}"), twiml.Connect)
    assert [message.persona for message in opened(front)] == [CallPersona("Bob here.", prompt=opens_with)]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == warnings
    assert all(
        line.endswith("the prompt of this call is unknown, used or expired: it begins without") for line in lines
    )


@pytest.mark.parametrize(
    ("query", "greeting_frames", "silent"),
    [
        ("persona=ada", 25, 25),
        ("persona=ada", 0, 25),
        ("persona=ada", 125, 25),
        ("persona=ada&greeting_frames=3", 50, 25),
        ("persona=eve", 50, 50),
        ("persona=eve&greeting_frames=3", 50, 3),
        ("persona=eve", 0, 0),
    ],
)
async def test_a_greeting_with_words_is_stepped_ahead_for_two_seconds_whatever_the_setting(
    query: str, greeting_frames: int, silent: int
) -> None:
    front = Front(choose=choose, engine="mlx", codec="numpy", greeting_frames=greeting_frames)
    front.ring(ANN, query=query)
    assert [message.greeting_frames for message in opened(front)] == [silent]


async def test_who_has_waited_is_answered_by_the_persona_that_they_called() -> None:
    front = Front(choose=choose, when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    assert front.ring(BOB, query="persona=bob") == front.ring(EVE, To="+15551234567") == ENQUEUE
    front.page(BOB)
    async with front.redirecting():
        ann.end(EndReason.CALLER_HUNG_UP)
        front.open_socket(front.ring(BOB)).end(EndReason.CALLER_HUNG_UP)
        front.open_socket(front.ring(EVE, To="+15551234567"))
    spoke = [record.persona for record in front.manager.records()]
    assert spoke == ["eve", "bob", "ada"]


async def test_after_a_restart_who_waits_is_known_by_the_number_that_they_called() -> None:
    front = Front(choose=choose, when_busy="queue", max_calls=1)
    ann = front.talk(ANN)
    front.call_router.wait(form(BOB, To="+15551234567"))
    ann.end(EndReason.CALLER_HUNG_UP)
    assert [call.session.record.persona for call in front.manager.calls] == ["ada"]
