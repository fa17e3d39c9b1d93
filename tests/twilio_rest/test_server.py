"""What becomes of a call that is placed through the stand-in for Twilio's REST API."""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from app.simulator.report import Outcome
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.rest import CallRequest, MachineDetection, TwilioRest
from tests.app.simulator.small_server import PUBLIC_URL, TOKEN, SmallServer, connect, echo, serving
from tests.twilio_rest.account import Account, OwnedNumber, PlacedCall
from tests.twilio_rest.callee import Answer, Callee
from tests.twilio_rest.server import RestStandIn, serving_rest

ACCOUNT, OURS, THEIRS = "AC" + "2" * 32, "+15550100000", "+15550100001"


@asynccontextmanager
async def twilio(server: SmallServer, *callee: Callee) -> AsyncIterator[RestStandIn]:
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[OwnedNumber(OURS)]), server.url) as stand_in:
        stand_in.callees = dict.fromkeys([THEIRS], *callee) if callee else {}
        yield stand_in


def rest(stand_in: RestStandIn) -> TwilioRest:
    return TwilioRest(ACCOUNT, TOKEN, stand_in.url)


async def place(
    stand_in: RestStandIn, detection: MachineDetection | None = None, time_limit_s: int | None = None
) -> PlacedCall:
    urls = f"{PUBLIC_URL}/twilio/voice?greeting_frames=7", f"{PUBLIC_URL}/status"
    call = await rest(stand_in).place_call(CallRequest(THEIRS, OURS, *urls, time_limit_s, detection))
    return stand_in.account.calls[call.sid]


@asynccontextmanager
async def placed(
    server: SmallServer, callee: Callee, detection: MachineDetection | None = None, time_limit_s: int | None = None
) -> AsyncIterator[tuple[PlacedCall, TwilioRest]]:
    """Yield a call that is over, and the API to ask about it."""
    async with twilio(server, callee) as stand_in:
        call = await place(stand_in, detection, time_limit_s)
        await stand_in.settle()
        yield call, rest(stand_in)


def told(server: SmallServer) -> list[str]:
    return [form["CallStatus"] for path, form in server.asked if path == "/status"]


async def test_a_call_rings_is_answered_talks_and_ends_and_callbacks_tell_of_it() -> None:
    answers = ["", "", "", connect(), ""]
    async with serving(echo, answers=answers) as server, placed(server, Callee(duration_s=0.5)) as (call, _):
        pass
    assert told(server) == ["initiated", "ringing", "in-progress", "completed"]
    [voice] = [form for path, form in server.asked if path == "/twilio/voice"]
    assert (voice["Direction"], voice["CallStatus"]) == ("outbound-api", "in-progress")
    assert (voice["From"], voice["To"], voice["CallSid"]) == (OURS, THEIRS, call.sid)
    assert "AnsweredBy" not in voice
    assert [form["SequenceNumber"] for path, form in server.asked if path == "/status"] == list("0123")
    assert call.status == "completed"
    assert call.report is not None
    assert call.report.outcome is Outcome.CALLER_HUNG_UP


@pytest.mark.parametrize("answer", [Answer.BUSY, Answer.NO_ANSWER, Answer.FAILED])
async def test_who_does_not_answer_is_not_put_through(answer: Answer) -> None:
    async with serving(answers=["", "", ""]) as server, placed(server, Callee(answer)) as (call, _):
        pass
    assert told(server) == ["initiated", "ringing", answer]
    assert (call.status, call.report) == (answer, None)


@pytest.mark.parametrize(
    ("detection", "machine", "found"),
    [
        (MachineDetection.ENABLE, True, "machine_start"),
        (MachineDetection.DETECT_MESSAGE_END, True, "machine_end_beep"),
        (MachineDetection.ENABLE, False, "human"),
    ],
)
async def test_machine_detection_reports_who_has_answered(
    detection: MachineDetection, machine: bool, found: str
) -> None:
    answers = ["", "", "", twiml.hangup(), ""]
    async with serving(answers=answers) as server, placed(server, Callee(machine=machine), detection) as (call, api):
        assert (await api.fetch_call(CallSid(call.sid))).answered_by == found
    assert [form["AnsweredBy"] for path, form in server.asked if path == "/twilio/voice"] == [found]


async def test_a_call_is_ended_by_its_time_limit() -> None:
    answers = ["", "", "", connect(), ""]
    async with serving(echo, answers=answers) as server, placed(server, Callee(duration_s=3e3), None, 1) as (call, _):
        pass
    assert call.report is not None
    assert 7_900 <= len(call.report.heard) <= 8_800


async def test_a_call_that_rings_for_ever_can_be_ended() -> None:
    async with serving(answers=["", "", ""]) as server, twilio(server, Callee(rings_s=None)) as stand_in:
        call = await place(stand_in)
        await rest(stand_in).hang_up(CallSid(call.sid))
        await stand_in.settle()
    assert call.status == "canceled"


async def test_a_webhook_that_fails_is_noted_as_twilio_would() -> None:
    async with serving(answers=["", "", "", "no TwiML", ""]) as server, placed(server, Callee()) as (call, api):
        assert await api.call_errors(CallSid(call.sid)) == (12100,)


async def test_a_callback_that_fails_is_a_warning_and_the_call_goes_on() -> None:
    async with serving(answers=["", ""]) as server, placed(server, Callee(Answer.BUSY)) as (call, api):
        assert (call.status, call.notifications) == ("busy", [("1", 11200)])
        assert await api.call_errors(CallSid(call.sid)) == ()


async def test_a_refusal_is_the_json_that_twilio_sends() -> None:
    async with serving() as server, twilio(server) as stand_in, ClientSession() as client:
        url = f"{stand_in.url}/2010-04-01/Accounts/{ACCOUNT}/Calls"
        async with client.get(f"{url}/CAnobody.json") as answer:
            assert (answer.status, (await answer.json())["code"]) == (401, 20003)
        signed_in = {"Authorization": "Basic " + b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()}
        async with client.get(f"{url}/CAnobody.json", headers=signed_in) as answer:
            assert await answer.json() == {
                "code": 20404,
                "message": "The requested resource was not found",
                "more_info": "https://www.twilio.com/docs/errors/20404",
                "status": 404,
            }
