"""Placing, following and stopping a call through REST, against the stand-in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from app.cli.outbound import CallResult, ExitStatus
from app.cli.outbound_call import OutboundCall
from app.twilio.events import CallSid
from app.twilio.rest import CallRequest, CallStatus, RestCall, TwilioRest
from app.twilio.rest_http import RestError
from tests.twilio_rest.account import (
    NO_ANSWER,
    TOO_MANY_CALLS,
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    Account,
    Fault,
    OwnedNumber,
)
from tests.twilio_rest.callee import Answer, Callee
from tests.twilio_rest.server import Held, RestStandIn, serving_rest

SID, TOKEN, OURS, THEIRS = "AC" + "5" * 32, "the-rest-token", "+15550100000", "+15550100001"
PUBLIC = "https://phone.example.com"
REQUEST = CallRequest(THEIRS, OURS, f"{PUBLIC}/twilio/voice", f"{PUBLIC}/twilio/status")


class Watch:
    """Sees every look, and lets the stand-in get on with the call between looks."""

    def __init__(self) -> None:
        self.seen: list[CallStatus] = []
        self.on = asyncio.Event()

    def show(self, call: RestCall) -> None:
        self.seen.append(call.status)
        self.on.set()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 100)


@asynccontextmanager
async def twilio(callee: Callee) -> AsyncIterator[tuple[RestStandIn, OutboundCall, Watch]]:
    async with serving_rest(
        Account(SID, TOKEN, numbers=[OwnedNumber(OURS)]), dial_url="http://127.0.0.1:1"
    ) as stand_in:
        stand_in.callees = {THEIRS: callee}
        watch = Watch()
        yield stand_in, OutboundCall(TwilioRest(SID, TOKEN, stand_in.url, watch.sleep), REQUEST, watch.sleep), watch


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer.BUSY, ExitStatus.BUSY),
        (Answer.NO_ANSWER, ExitStatus.NO_ANSWER),
        (Answer.FAILED, ExitStatus.FAILED),
        (Answer.ANSWERED, ExitStatus.FAILED),  # nobody is at the webhook
    ],
)
async def test_a_call_is_followed_to_its_end(answer: Answer, status: ExitStatus) -> None:
    async with twilio(Callee(answer)) as (_, call, watch):
        found = await call.run(watch.show)
    assert found.status is status
    assert watch.seen[0] is CallStatus.QUEUED
    assert watch.seen[-1].over
    assert ("11200" in found.sentence) is (answer is Answer.ANSWERED)


async def test_a_request_that_fails_for_a_moment_changes_nothing() -> None:
    async with twilio(Callee(Answer.BUSY)) as (stand_in, call, watch):
        stand_in.faults["GET Calls"].extend([UNAVAILABLE, NO_ANSWER])
        assert (await call.run(watch.show)).status is ExitStatus.BUSY


async def test_a_call_that_is_no_longer_followed_is_reported_by_its_sid() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        stand_in.faults["GET Calls"].extend([UNAVAILABLE] * 10)
        found = await call.run(watch.show)
        [sid] = stand_in.account.calls
    assert found.status is ExitStatus.UNKNOWN
    assert f"{sid} cannot be followed, it may still be on" in found.sentence


async def test_a_call_that_is_not_placed_is_no_call() -> None:
    async with twilio(Callee()) as (stand_in, call, watch):
        stand_in.faults["POST Calls"].append(TOO_MANY_CALLS)
        with pytest.raises(RestError, match="10004"):
            await call.run(watch.show)
    assert watch.seen == []


async def test_stopping_hangs_up() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        running = asyncio.create_task(call.run(watch.show))
        await watch.on.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await call.stop() == CallResult(ExitStatus.STOPPED, "stopped; the call was hung up")
        await stand_in.settle()
        assert [placed.status for placed in stand_in.account.calls.values()] == ["canceled"]


async def test_stopping_while_the_call_is_being_placed_hangs_up_too() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        running = asyncio.create_task(call.run(watch.show))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await call.stop()
        await stand_in.settle()
        assert [placed.status for placed in stand_in.account.calls.values()] == ["canceled"]
    assert watch.seen == []


async def test_a_call_that_ended_by_itself_meanwhile_was_not_hung_up() -> None:
    async with twilio(Callee(Answer.BUSY)) as (stand_in, call, watch):
        await call.run(watch.show)
        await stand_in.settle()
        assert await call.stop() == CallResult(ExitStatus.STOPPED, "stopped; the call was over already")


async def test_an_answered_call_that_the_bridge_had_no_slot_for_is_reported() -> None:
    async def refusal(_: CallSid) -> str:
        return "busy"

    async with twilio(Callee()) as (stand_in, _, watch):
        rest = TwilioRest(SID, TOKEN, stand_in.url, watch.sleep)
        found = await OutboundCall(rest, REQUEST, watch.sleep, refusal).run(watch.show)
    assert found == CallResult(ExitStatus.NO_SLOT, "answered, but the bridge had no free slot")


async def test_a_call_whose_notes_cannot_be_read_is_over_all_the_same() -> None:
    async with twilio(Callee(Answer.BUSY)) as (stand_in, call, watch):
        stand_in.faults["GET Notifications"].extend([UNAVAILABLE] * 10)
        found = await call.run(watch.show)
    assert found.status is ExitStatus.BUSY
    assert "cannot be read" in found.sentence


UNCONFIRMED = (
    replace(NO_ANSWER, carried_out=True),
    replace(UNAVAILABLE, carried_out=True),
    Fault(200, text="<html>a proxy</html>", carried_out=True),
    Fault(200, text="[]", carried_out=True),
    Fault(201, text="", carried_out=True),
)
"""Answers to the request to call, which was carried out."""


@pytest.mark.parametrize("fault", UNCONFIRMED, ids=str)
async def test_a_call_that_twilio_did_not_confirm_is_found_and_hung_up(fault: Fault) -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        stand_in.faults["POST Calls"].append(fault)
        found = await call.run(watch.show)
        await stand_in.settle()
        assert [placed.status for placed in stand_in.account.calls.values()] == ["canceled"]
    assert found.status is ExitStatus.FAILED
    assert "did not confirm" in found.sentence
    assert found.sentence.endswith("it was placed; the call was hung up")


@pytest.mark.parametrize("fault", [NO_ANSWER, UNAVAILABLE, Fault(200)], ids=str)
async def test_a_call_that_twilio_did_not_confirm_and_does_not_list_may_ring(fault: Fault) -> None:
    async with twilio(Callee()) as (stand_in, call, watch):
        stand_in.faults["POST Calls"].append(fault)
        found = await call.run(watch.show)
    assert found.status is ExitStatus.UNKNOWN
    assert "…0001 may be called" in found.sentence
    assert "\n" not in found.sentence


async def test_a_search_that_fails_is_reported() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        stand_in.faults["POST Calls"].append(replace(NO_ANSWER, carried_out=True))
        stand_in.faults["GET Calls"].extend([UNAVAILABLE] * 20)
        found = await call.run(watch.show)
    assert found.status is ExitStatus.UNKNOWN
    assert "may be called: Twilio answered with HTTP 503" in found.sentence


async def test_of_two_calls_none_is_hung_up_because_nobody_knows_whose_they_are() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        await TwilioRest(SID, TOKEN, stand_in.url).place_call(REQUEST)
        stand_in.faults["POST Calls"].append(replace(NO_ANSWER, carried_out=True))
        found = await call.run(watch.show)
        calls = stand_in.account.calls
        assert all(sid in found.sentence for sid in calls)
        assert {placed.status for placed in calls.values()} <= {"queued", "initiated", "ringing"}
    assert found.status is ExitStatus.UNKNOWN


async def test_a_call_of_an_hour_ago_is_not_taken_for_this_one() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        old = await TwilioRest(SID, TOKEN, stand_in.url).place_call(REQUEST)
        stand_in.account.calls[old.sid].created_s -= 3_600
        stand_in.faults["POST Calls"].append(NO_ANSWER)
        assert (await call.run(watch.show)).status is ExitStatus.UNKNOWN


async def stopped_while_twilio_has_the_request(
    stand_in: RestStandIn, call: OutboundCall, watch: Watch
) -> "asyncio.Task[CallResult]":
    """Cancel a call whose request Twilio has carried out and not answered yet; return what stops it."""
    held = stand_in.held["POST Calls"] = Held()
    running = asyncio.create_task(call.run(watch.show))
    await held.reached.wait()
    running.cancel()
    await asyncio.wait({running})
    return asyncio.create_task(call.stop())


async def test_stopping_while_twilio_has_the_request_waits_for_the_answer_and_hangs_up() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        stopping = await stopped_while_twilio_has_the_request(stand_in, call, watch)
        stand_in.held.pop("POST Calls").release.set()
        assert await stopping == CallResult(ExitStatus.STOPPED, "stopped; the call was hung up")
        await stand_in.settle()
        assert [placed.status for placed in stand_in.account.calls.values()] == ["canceled"]


async def test_stopping_while_the_answer_gets_lost_searches_for_the_call() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        stand_in.faults["POST Calls"].append(replace(NO_ANSWER, carried_out=True))
        stopping = await stopped_while_twilio_has_the_request(stand_in, call, watch)
        stand_in.held.pop("POST Calls").release.set()
        stopped = await stopping
        await stand_in.settle()
        assert [placed.status for placed in stand_in.account.calls.values()] == ["canceled"]
    assert stopped.status is ExitStatus.STOPPED
    assert stopped.sentence.endswith("it was placed; the call was hung up")


async def test_giving_up_says_that_the_call_may_ring() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        stopping = await stopped_while_twilio_has_the_request(stand_in, call, watch)
        stopping.cancel()
        await asyncio.wait({stopping})
        assert call.give_up() == CallResult(ExitStatus.UNKNOWN, "stopped at once; …0001 may be called")
        stand_in.held.pop("POST Calls").release.set()


async def test_a_call_that_twilio_turned_away_for_a_moment_is_not_placed_after_stopping() -> None:
    async with twilio(Callee()) as (stand_in, _, watch):
        waiting, go_on = asyncio.Event(), asyncio.Event()

        async def sleep(_: float) -> None:
            waiting.set()
            await go_on.wait()

        stand_in.faults["POST Calls"].append(TOO_MANY_REQUESTS)
        call = OutboundCall(TwilioRest(SID, TOKEN, stand_in.url, sleep), REQUEST)
        running = asyncio.create_task(call.run(watch.show))
        await waiting.wait()
        running.cancel()
        await asyncio.wait({running})
        stopping = asyncio.create_task(call.stop())
        await asyncio.sleep(0)
        go_on.set()
        assert await stopping == CallResult(ExitStatus.STOPPED, "stopped; the call was not placed")
        assert stand_in.account.calls == {}


async def test_stopping_before_there_is_a_call_is_reported() -> None:
    async with twilio(Callee()) as (stand_in, call, _):
        assert await call.stop() == CallResult(ExitStatus.STOPPED, "stopped before the call was placed")
        assert stand_in.asked == []


async def test_a_call_that_could_not_be_hung_up_is_reported_by_its_sid() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        running = asyncio.create_task(call.run(watch.show))
        await watch.on.wait()
        running.cancel()
        [sid] = stand_in.account.calls
        stand_in.faults["POST Calls"].extend([UNAVAILABLE] * 10)
        stopped = await call.stop()
        assert stopped.status is ExitStatus.UNKNOWN
        assert f"{sid} may still be on" in stopped.sentence
