"""The client of Twilio's REST API against the fake server; no test really waits."""

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from app.config import SettingsError, read_settings
from app.logging import LogLevel, start_logging
from app.simulator.remote import EndCall, Redirect, Remote
from app.twilio.events import CallSid
from app.twilio.rest import (
    CallRequest,
    CallStatus,
    Destination,
    MachineDetection,
    TwilioRest,
    Webhook,
    open_rest,
)
from app.twilio.rest_http import ATTEMPTS, LONGEST_WAIT_S, RestError, retry_wait_s
from tests.twilio_rest.account import (
    NO_ANSWER,
    TOO_MANY_CALLS,
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    Account,
    AccountType,
    Fault,
    OwnedNumber,
)
from tests.twilio_rest.callee import Callee
from tests.twilio_rest.server import FakeRest, serving_rest

SID, TOKEN = "AC" + "1" * 32, "the-rest-token"
OURS, THEIRS = "+15550100000", "+15550100001"
PUBLIC = "https://phone.example.com"
HERE = Destination(Webhook(f"{PUBLIC}/twilio/voice"), Webhook(f"{PUBLIC}/twilio/status", "GET"))
REQUEST = CallRequest(THEIRS, OURS, f"{PUBLIC}/twilio/voice", f"{PUBLIC}/twilio/status")


@dataclass
class Twilio:
    """The fake server and a client of it; `waits` are how long the client would have waited."""

    fake: FakeRest
    token: str = TOKEN
    waits: list[float] = field(default_factory=list)

    @property
    def rest(self) -> TwilioRest:
        return TwilioRest(SID, self.token, self.fake.url, self._sleep)

    async def _sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)

    def asked(self) -> list[str]:
        return [asked for asked, _ in self.fake.asked]


@pytest_asyncio.fixture
async def twilio() -> AsyncIterator[Twilio]:
    async with serving_rest(Account(SID, TOKEN, numbers=[OwnedNumber(OURS)]), dial_url="http://127.0.0.1:1") as served:
        yield Twilio(served)


async def test_a_call_is_placed_with_the_form_that_a_dry_run_shows(twilio: Twilio) -> None:
    request = CallRequest(THEIRS, OURS, REQUEST.voice_url, REQUEST.status_url, 600, MachineDetection.ENABLE)
    placed = await twilio.rest.place_call(request)
    assert placed.status is CallStatus.QUEUED
    assert placed.sid in twilio.fake.account.calls
    [(asked, form)] = twilio.fake.asked
    assert asked == "POST Calls"
    assert sorted(form) == sorted(request.fields())
    assert dict(form)["MachineDetection"] == "Enable"
    await twilio.rest.place_call(REQUEST)
    assert not {"TimeLimit", "MachineDetection"} & {name for name, _ in twilio.fake.asked[-1][1]}


async def test_what_went_wrong_in_a_call_can_be_asked(twilio: Twilio) -> None:
    twilio.fake.callees = {THEIRS: Callee(machine=True)}
    placed = await twilio.rest.place_call(replace(REQUEST, machine_detection=MachineDetection.ENABLE))
    await twilio.fake.settle()
    call = await twilio.rest.fetch_call(placed.sid)
    assert (call.status, call.answered_by) == (CallStatus.COMPLETED, "machine_start")
    assert await twilio.rest.call_errors(placed.sid) == (11200,), "nobody answers the webhook"


@pytest.mark.parametrize(
    ("request_to", "number", "code"),
    [
        ("+1", OURS, 21211),
        (THEIRS, "0049", 21212),
        (THEIRS, THEIRS, 21210),
        (THEIRS, OURS, 21219),
    ],
)
async def test_a_refusal_has_twilios_code_and_says_what_to_do(
    twilio: Twilio, request_to: str, number: str, code: int
) -> None:
    twilio.fake.account.type = AccountType.TRIAL
    with pytest.raises(RestError, match=f"^{code}: .+; .+") as caught:
        await twilio.rest.place_call(CallRequest(request_to, number, REQUEST.voice_url, REQUEST.status_url))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert twilio.waits == []


METHODS: dict[str, tuple[str, Callable[[TwilioRest], Awaitable[object]]]] = {
    "place_call": ("POST Calls", lambda rest: rest.place_call(REQUEST)),
    "fetch_call": ("GET Calls", lambda rest: rest.fetch_call(CallSid("CA1"))),
    "call_errors": ("GET Notifications", lambda rest: rest.call_errors(CallSid("CA1"))),
    "recent_calls": ("GET Calls", lambda rest: rest.recent_calls(THEIRS, OURS, 1.0)),
    "account": ("GET Accounts", lambda rest: rest.account()),
    "find_number": ("GET IncomingPhoneNumbers", lambda rest: rest.find_number(OURS)),
    "point_number": ("POST IncomingPhoneNumbers", lambda rest: rest.point_number("PN1", HERE)),
    "redirect": ("POST Calls", lambda rest: rest.redirect(CallSid("CA1"), PUBLIC)),
    "hang_up": ("POST Calls", lambda rest: rest.hang_up(CallSid("CA1"))),
}
"""Every method of the API: what it asks, and a call of it."""


async def test_a_wrong_token_is_20003_at_every_method(twilio: Twilio) -> None:
    twilio.token = "another"
    for _, ask in METHODS.values():
        with pytest.raises(RestError, match=r"20003.*TWILIO_AUTH_TOKEN") as caught:
            await ask(twilio.rest)
        assert (caught.value.code, caught.value.status) == (20003, 401)


@pytest.mark.parametrize(("fault", "waits"), [(TOO_MANY_CALLS, 0), (TOO_MANY_REQUESTS, ATTEMPTS - 1)])
async def test_too_much_at_once_is_reported_and_only_requests_are_tried_again(
    twilio: Twilio, fault: Fault, waits: int
) -> None:
    twilio.fake.faults["POST Calls"].extend([fault] * ATTEMPTS)
    with pytest.raises(RestError, match=str(fault.code)):
        await twilio.rest.place_call(REQUEST)
    assert len(twilio.waits) == waits


async def test_a_call_turned_away_for_their_number_is_placed_a_moment_later(twilio: Twilio) -> None:
    twilio.fake.faults["POST Calls"].extend([TOO_MANY_REQUESTS, Fault(429, 20429, "", retry_after_s=3)])
    await twilio.rest.place_call(REQUEST)
    assert len(twilio.fake.account.calls) == 1
    assert twilio.waits[1] == 3


@pytest.mark.parametrize("fault", [UNAVAILABLE, NO_ANSWER], ids=["503", "no answer"])
async def test_what_does_no_harm_twice_is_tried_again_and_placing_and_redirecting_are_not(
    twilio: Twilio, fault: Fault
) -> None:
    twilio.fake.faults["GET Accounts"].extend([fault] * (ATTEMPTS - 1))
    assert (await twilio.rest.account()).status == "active"
    assert len(twilio.waits) == ATTEMPTS - 1
    twilio.fake.faults["POST Calls"].extend([fault] * 2)
    for method in ("place_call", "redirect"):
        with pytest.raises(RestError):
            await METHODS[method][1](twilio.rest)
    assert len(twilio.waits) == ATTEMPTS - 1


async def test_a_server_that_is_not_there_is_tried_again_and_named(twilio: Twilio) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        twilio.fake.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(RestError, match=r"127.0.0.1:\d+: the connection was refused") as caught:
        await twilio.rest.place_call(REQUEST)
    assert (caught.value.status, caught.value.unreached, caught.value.may_be_done) == (None, True, False)
    assert len(twilio.waits) == ATTEMPTS - 1


SHAPES = {
    "a web page": "<html>Welcome to the hotel</html>",
    "nothing": "",
    "a list": "[]",
    "a number": "7",
    "an empty object": "{}",
    "an error": '{"code": 20003, "message": "no"}',
    "nested too deep": "[" * 100_000,
    "a number too long": f'{{"sid": {"9" * 5_000}}}',
    "fields of other types": '{"sid": 7, "status": [], "phone_number": {}, "duration": "soon", "date_created": 5}',
    "null fields": '{"sid": null, "status": null, "type": null, "phone_number": null}',
    "a list of no objects": '{"calls": ["a"], "notifications": ["a"], "incoming_phone_numbers": ["a"]}',
    "no list": '{"calls": 1, "notifications": 1, "incoming_phone_numbers": 1, "page": "x"}',
}
"""Bodies of a success that is none of Twilio's."""


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
async def test_a_success_of_another_shape_is_one_line_at_every_method(twilio: Twilio, text: str) -> None:
    for asked, ask in list(METHODS.values())[:7]:  # of the last two no answer is read
        twilio.fake.faults[asked].append(Fault(200, text=text))
        with pytest.raises(RestError, match="TWILIO_API_URL") as caught:
            await ask(twilio.rest)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200
        assert caught.value.may_be_done


@pytest.mark.parametrize(
    ("fault", "said", "may_be_done"),
    [
        (Fault(302), "HTTP 302", False),
        (Fault(418), "HTTP 418", False),
        (Fault(401, 20003), "20003", False),
        (TOO_MANY_CALLS, "10004", False),
        (Fault(503), "HTTP 503", True),
        (NO_ANSWER, "no answer", True),
        (Fault(200), "otherwise than Twilio", True),
    ],
)
async def test_it_is_known_whether_a_request_may_have_been_carried_out(
    twilio: Twilio, fault: Fault, said: str, may_be_done: bool
) -> None:
    twilio.fake.faults["POST Calls"].append(fault)
    with pytest.raises(RestError, match=said) as caught:
        await twilio.rest.place_call(REQUEST)
    assert (caught.value.code, caught.value.may_be_done) == (fault.code, may_be_done)


async def test_the_calls_of_the_last_seconds_can_be_listed_whatever_the_clock_here_says(twilio: Twilio) -> None:
    twilio.fake.clock_ahead_s = 86_400.0
    old, new = [await twilio.rest.place_call(REQUEST) for _ in range(2)]
    twilio.fake.account.calls[old.sid].created_s -= 60
    found = await twilio.rest.recent_calls(THEIRS, OURS, 10.0)
    assert [call.sid for call in found] == [new.sid]
    assert await twilio.rest.recent_calls(OURS, THEIRS, 10.0) == ()


async def test_a_code_that_is_not_known_here_comes_with_twilios_words_and_no_number(twilio: Twilio) -> None:
    twilio.fake.faults["POST Calls"].append(Fault(400, 21299, f"Odd number {THEIRS},\nsorry"))
    with pytest.raises(RestError, match=r"21299: see https://.*21299 \(Odd number …0001, sorry\)$"):
        await twilio.rest.place_call(REQUEST)


@given(
    status=st.sampled_from([None, 400, 401, 404, 429, 500, 503]),
    idempotent=st.booleans(),
    attempt=st.integers(1, 10),
    chance=st.floats(0, 1),
    retry_after_s=st.none() | st.floats(0, 1e6),
)
def test_waiting_ends(
    status: int | None, idempotent: bool, attempt: int, chance: float, retry_after_s: float | None
) -> None:
    error = RestError("", None, status, retry_after_s)
    wait_s = retry_wait_s(error, attempt, idempotent, chance)
    if wait_s is not None:
        assert attempt < ATTEMPTS
        assert 0 < wait_s <= LONGEST_WAIT_S
        assert wait_s >= (retry_after_s or 0)
        assert status == 429 or (idempotent and status in (None, 500, 503))


async def test_ending_and_redirecting_reach_a_call_and_one_that_is_over_cannot_be_redirected(twilio: Twilio) -> None:
    remote = Remote()
    twilio.fake.adopt("CAinbound", remote.send)
    assert await twilio.rest.hang_up(CallSid("CAinbound"))
    assert remote.pop() == EndCall()
    await twilio.rest.redirect(CallSid("CAinbound"), f"{PUBLIC}/twilio/voice")
    assert remote.pop() == Redirect(f"{PUBLIC}/twilio/voice")
    placed = await twilio.rest.place_call(REQUEST)
    await twilio.fake.settle()
    assert not await twilio.rest.hang_up(placed.sid), "no error"
    with pytest.raises(RestError, match="21220"):
        await twilio.rest.redirect(placed.sid, PUBLIC)


async def test_a_number_is_found_on_whatever_page_it_is(twilio: Twilio) -> None:
    twilio.fake.page_size = 2
    twilio.fake.account.numbers = [OwnedNumber(f"{OURS}{last}") for last in range(6)]
    assert await twilio.rest.find_number(OURS) is None, "a longer number only looks like it"
    twilio.fake.account.numbers.append(OwnedNumber(OURS))
    twilio.fake.asked.clear()
    found = await twilio.rest.find_number(OURS)
    assert found is not None
    assert found.sid == twilio.fake.account.numbers[-1].sid
    assert twilio.asked() == ["GET IncomingPhoneNumbers"] * 4


async def test_pointing_a_number_changes_what_twilio_has(twilio: Twilio) -> None:
    [owned] = twilio.fake.account.numbers
    number = await twilio.rest.point_number(owned.sid, HERE)
    assert (owned.voice_url, owned.status_callback) == (HERE.voice.url, HERE.status.url)
    assert number == await twilio.rest.find_number(OURS)
    assert number.leads_to == HERE


@pytest.mark.parametrize("kind", AccountType)
async def test_the_account_reports_its_kind_and_twilios_clock(twilio: Twilio, kind: AccountType) -> None:
    twilio.fake.account.type = kind
    twilio.fake.clock_ahead_s = 3 * 86_400
    account = await twilio.rest.account()
    assert (account.sid, account.trial) == (SID, kind is AccountType.TRIAL)
    assert account.clock_s is not None
    assert datetime.fromtimestamp(account.clock_s, UTC).date() > datetime.now(UTC).date()


async def test_nothing_logs_a_number_or_the_token(twilio: Twilio, caplog: pytest.LogCaptureFixture) -> None:
    start_logging(LogLevel.DEBUG)
    with caplog.at_level(logging.DEBUG):
        await twilio.rest.find_number(OURS)
        await twilio.rest.place_call(REQUEST)
    assert OURS[1:] not in caplog.text
    assert THEIRS[1:] not in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("missing", ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"])
def test_without_sid_or_token_there_is_no_client(missing: str) -> None:
    settings = {"twilio_account_sid": SID, "twilio_auth_token": TOKEN, missing.lower(): ""}
    with pytest.raises(SettingsError, match=missing):
        open_rest(read_settings(**settings))
