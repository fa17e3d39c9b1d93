"""Placing, following and stopping a call through a REST API like Twilio's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from app.cli.outbound import CallResult, ExitStatus
from app.cli.outbound_call import OutboundCall
from app.twilio.events import CallSid
from app.twilio.rest import CallRequest, CallStatus, RestCall, TwilioRest
from tests.twilio_rest.account import (
    NO_ANSWER,
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    Account,
    Fault,
    OwnedNumber,
)
from tests.twilio_rest.callee import Answer, Callee
from tests.twilio_rest.server import FakeRest, Held, serving_rest

SID, TOKEN, OURS, THEIRS = "AC" + "5" * 32, "the-rest-token", "+15550100000", "+15550100001"
PUBLIC = "https://phone.example.com"
REQUEST = CallRequest(THEIRS, OURS, f"{PUBLIC}/twilio/voice", f"{PUBLIC}/twilio/status")
RINGS = Callee(rings_s=None)
HUNG_UP = CallResult(ExitStatus.STOPPED, "stopped; the call was hung up")


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds / 100)


async def busy(_: CallSid) -> str:
    return "busy"


@dataclass
class Dialling:
    """One call, the REST server that places it, and every status that is shown."""

    rest: FakeRest
    call: OutboundCall
    seen: list[CallStatus] = field(default_factory=list)
    placed: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, call: RestCall) -> None:
        self.seen.append(call.status)
        self.placed.set()

    async def run(self) -> CallResult:
        return await self.call.run(self.show)

    async def cancel_when(self, event: asyncio.Event | None) -> None:
        """Run the call, and cancel it after the event, by default at once."""
        running = asyncio.create_task(self.run())
        await (event.wait() if event else asyncio.sleep(0))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    async def statuses(self) -> list[str]:
        await self.rest.settle()
        return [placed.status for placed in self.rest.account.calls.values()]


@asynccontextmanager
async def dialling(callee: Callee, *faults: Fault, at: str = "POST Calls") -> AsyncIterator[Dialling]:
    account = Account(SID, TOKEN, numbers=[OwnedNumber(OURS)])
    async with serving_rest(account, dial_url="http://127.0.0.1:1") as rest:
        rest.callees = {THEIRS: callee}
        rest.faults[at].extend(faults)
        yield Dialling(rest, OutboundCall(TwilioRest(SID, TOKEN, rest.url, sleep), REQUEST, sleep))


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
    async with dialling(Callee(answer)) as dialled:
        found = await dialled.run()
    assert found.status is status
    assert dialled.seen[0] is CallStatus.QUEUED
    assert dialled.seen[-1].over
    assert ("11200" in found.sentence) is (answer is Answer.ANSWERED)


async def test_a_call_that_is_no_longer_followed_is_reported_by_its_sid() -> None:
    async with dialling(RINGS, *[UNAVAILABLE] * 10, at="GET Calls") as dialled:
        found = await dialled.run()
        [sid] = dialled.rest.account.calls
    assert found.status is ExitStatus.UNKNOWN
    assert f"{sid} cannot be followed, it may still be on" in found.sentence


async def test_a_call_whose_notes_cannot_be_read_is_over_all_the_same() -> None:
    async with dialling(Callee(Answer.BUSY), *[UNAVAILABLE] * 10, at="GET Notifications") as dialled:
        found = await dialled.run()
    assert found.status is ExitStatus.BUSY
    assert "cannot be read" in found.sentence


async def test_an_answered_call_that_the_bridge_had_no_slot_for_is_reported() -> None:
    async with dialling(Callee()) as dialled:
        dialled.call = OutboundCall(TwilioRest(SID, TOKEN, dialled.rest.url, sleep), REQUEST, sleep, busy)
        assert await dialled.run() == CallResult(ExitStatus.NO_SLOT, "answered, but the bridge had no free slot")


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
    async with dialling(RINGS, fault) as dialled:
        found = await dialled.run()
        assert await dialled.statuses() == ["canceled"]
    assert found.status is ExitStatus.FAILED
    assert "did not confirm" in found.sentence
    assert found.sentence.endswith("it was placed; the call was hung up")


@pytest.mark.parametrize("fault", [NO_ANSWER, UNAVAILABLE, Fault(200)], ids=str)
async def test_a_call_that_twilio_did_not_confirm_and_does_not_list_may_ring(fault: Fault) -> None:
    async with dialling(Callee(), fault) as dialled:
        found = await dialled.run()
    assert found.status is ExitStatus.UNKNOWN
    assert "…0001 may be called" in found.sentence
    assert "\n" not in found.sentence


async def test_a_search_that_fails_is_reported() -> None:
    async with dialling(RINGS, UNCONFIRMED[0]) as dialled:
        dialled.rest.faults["GET Calls"].extend([UNAVAILABLE] * 20)
        found = await dialled.run()
    assert found.status is ExitStatus.UNKNOWN
    assert "may be called: Twilio answered with HTTP 503" in found.sentence


async def test_of_two_calls_none_is_hung_up_because_nobody_knows_whose_they_are() -> None:
    async with dialling(RINGS) as dialled:
        await TwilioRest(SID, TOKEN, dialled.rest.url).place_call(REQUEST)
        dialled.rest.faults["POST Calls"].append(UNCONFIRMED[0])
        found = await dialled.run()
        calls = dialled.rest.account.calls
        assert all(sid in found.sentence for sid in calls)
        assert {placed.status for placed in calls.values()} <= {"queued", "initiated", "ringing"}
    assert found.status is ExitStatus.UNKNOWN


async def test_a_call_of_an_hour_ago_is_not_taken_for_this_one() -> None:
    async with dialling(RINGS) as dialled:
        old = await TwilioRest(SID, TOKEN, dialled.rest.url).place_call(REQUEST)
        dialled.rest.account.calls[old.sid].created_s -= 3_600
        dialled.rest.faults["POST Calls"].append(NO_ANSWER)
        assert (await dialled.run()).status is ExitStatus.UNKNOWN


@pytest.mark.parametrize("placed", [True, False], ids=["when it rings", "while it is being placed"])
async def test_stopping_hangs_up(placed: bool) -> None:
    async with dialling(RINGS) as dialled:
        await dialled.cancel_when(dialled.placed if placed else None)
        assert await dialled.call.stop() == HUNG_UP
        assert await dialled.statuses() == ["canceled"]
    assert bool(dialled.seen) is placed


async def test_stopping_before_there_is_a_call_is_reported() -> None:
    async with dialling(Callee()) as dialled:
        assert await dialled.call.stop() == CallResult(ExitStatus.STOPPED, "stopped before the call was placed")
        assert dialled.rest.asked == []


async def test_a_call_that_ended_by_itself_meanwhile_was_not_hung_up() -> None:
    async with dialling(Callee(Answer.BUSY)) as dialled:
        await dialled.run()
        assert await dialled.statuses() == ["busy"]
        assert await dialled.call.stop() == CallResult(ExitStatus.STOPPED, "stopped; the call was over already")


async def test_a_call_that_could_not_be_hung_up_is_reported_by_its_sid() -> None:
    async with dialling(RINGS) as dialled:
        await dialled.cancel_when(dialled.placed)
        [sid] = dialled.rest.account.calls
        dialled.rest.faults["POST Calls"].extend([UNAVAILABLE] * 10)
        stopped = await dialled.call.stop()
    assert stopped.status is ExitStatus.UNKNOWN
    assert f"{sid} may still be on" in stopped.sentence


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "the answer is lost"])
async def test_stopping_while_twilio_has_the_request_waits_for_its_end_and_hangs_up(answered: bool) -> None:
    async with dialling(RINGS, *([] if answered else [UNCONFIRMED[0]])) as dialled:
        held = dialled.rest.held["POST Calls"] = Held()
        await dialled.cancel_when(held.reached)
        stopping = asyncio.create_task(dialled.call.stop())
        dialled.rest.held.pop("POST Calls").release.set()
        stopped = await stopping
        assert await dialled.statuses() == ["canceled"]
    assert stopped.status is ExitStatus.STOPPED
    assert stopped.sentence.endswith("the call was hung up" if answered else "it was placed; the call was hung up")


async def test_a_call_that_twilio_turned_away_for_a_moment_is_not_placed_after_stopping() -> None:
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: float) -> None:
        waiting.set()
        await go_on.wait()

    async with dialling(Callee(), TOO_MANY_REQUESTS) as dialled:
        dialled.call = OutboundCall(TwilioRest(SID, TOKEN, dialled.rest.url, wait), REQUEST)
        await dialled.cancel_when(waiting)
        stopping = asyncio.create_task(dialled.call.stop())
        await asyncio.sleep(0)
        go_on.set()
        assert await stopping == CallResult(ExitStatus.STOPPED, "stopped; the call was not placed")
        assert dialled.rest.account.calls == {}
