"""What becomes of a call that is placed through the fake server of Twilio's REST API."""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from app.simulator.report import Outcome
from app.twilio.events import CallSid
from app.twilio.rest import CallRequest, MachineDetection, TwilioRest
from tests.app.simulator.small_server import PUBLIC_URL, TOKEN, SmallServer, connect, echo, serving
from tests.twilio_rest.account import Account, OwnedNumber, PlacedCall
from tests.twilio_rest.callee import Answer, Callee
from tests.twilio_rest.server import serving_rest

ACCOUNT, OURS, THEIRS = "AC" + "2" * 32, "+15550100000", "+15550100001"


@asynccontextmanager
async def placed(
    server: SmallServer, callee: Callee, time_limit_s: int = 9
) -> AsyncIterator[tuple[PlacedCall, TwilioRest]]:
    """Yield a call that is over, and the API to ask about it."""
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[OwnedNumber(OURS)]), server.url) as fake:
        fake.callees = {THEIRS: callee}
        urls = f"{PUBLIC_URL}/twilio/voice?greeting_frames=7", f"{PUBLIC_URL}/status"
        rest = TwilioRest(ACCOUNT, TOKEN, fake.url)
        call = await rest.place_call(CallRequest(THEIRS, OURS, *urls, time_limit_s, MachineDetection.ENABLE))
        await fake.settle()
        yield fake.account.calls[call.sid], rest


async def test_a_call_rings_is_answered_talks_and_ends_and_callbacks_tell_of_it() -> None:
    answers = ["", "", "", connect(), ""]
    async with serving(echo, answers=answers) as server, placed(server, Callee(duration_s=3e3), 1) as (call, rest):
        assert (await rest.fetch_call(CallSid(call.sid))).answered_by == "human"
    [voice] = [form for path, form in server.asked if path == "/twilio/voice"]
    assert (voice["Direction"], voice["CallStatus"], voice["AnsweredBy"]) == ("outbound-api", "in-progress", "human")
    assert (voice["From"], voice["To"], voice["CallSid"]) == (OURS, THEIRS, call.sid)
    told = [(form["CallStatus"], form["SequenceNumber"]) for path, form in server.asked if path == "/status"]
    assert told == [("initiated", "0"), ("ringing", "1"), ("in-progress", "2"), ("completed", "3")]
    assert call.report is not None
    assert (call.status, call.report.outcome) == ("completed", Outcome.CALLER_HUNG_UP)
    assert 7_900 <= len(call.report.heard) <= 8_800, "the time limit of one second ended it"


@pytest.mark.parametrize(
    ("callee", "answers", "status", "notifications", "errors"),
    [
        (Callee(), ["", "", "", "no TwiML", ""], "completed", [("0", 12100)], (12100,)),
        (Callee(Answer.BUSY), ["", ""], "busy", [("1", 11200)], ()),
    ],
    ids=["a webhook that fails is an error", "a callback that fails is a warning"],
)
async def test_what_fails_is_noted_as_twilio_would(
    callee: Callee, answers: list[str], status: str, notifications: list[tuple[str, int]], errors: tuple[int, ...]
) -> None:
    async with serving(answers=answers) as server, placed(server, callee) as (call, rest):
        assert (call.status, call.notifications) == (status, notifications)
        assert await rest.call_errors(CallSid(call.sid)) == errors


async def test_a_refusal_is_the_json_that_twilio_sends() -> None:
    async with serving_rest(Account(ACCOUNT, TOKEN)) as fake, ClientSession() as client:
        url = f"{fake.url}/2010-04-01/Accounts/{ACCOUNT}/Calls"
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
