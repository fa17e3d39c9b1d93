"""`POST /api/calls/{call_sid}/transfer` and the caller's key, with workers and a REST API that are lists."""

import json
from collections.abc import Callable, Mapping

import httpx
import pytest
import pytest_asyncio

from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from app.calls.transfer import MOST_TRANSFERS
from app.twilio import twiml
from app.twilio.events import CallSid, DtmfPressed, Stopped
from app.twilio.rest_http import RestError
from app.twilio.signature import sign
from tests.app.calls.front import settle
from tests.service.front import Front, front_settings
from tests.service.phone import PUBLIC, TOKEN, form, new_call_sid

ANN = "+15550100009"
OPERATOR = "a-long-operator-token"


class Carrier:
    """What Twilio is asked to do."""

    def __init__(self) -> None:
        self.followed: list[tuple[str, str]] = []
        self.fault: RestError | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens while Twilio is asked."""

    async def redirect(self, call_sid: CallSid, url: str) -> None:
        raise AssertionError

    async def follow(self, call_sid: CallSid, twiml: str) -> None:
        self.meanwhile()
        if self.fault:
            raise self.fault
        self.followed.append((call_sid, twiml))


class Transferring:
    def __init__(self, **settings: object) -> None:
        self.rest = Carrier()
        chosen = {"transfer_to": ANN, "transfer_digit": "0", "operator_token": OPERATOR, **settings}
        self.front = Front(front_settings(**chosen), rest=self.rest)

    async def ask(
        self, call_sid: CallSid, body: Mapping[str, object] = {}, headers: Mapping[str, str] = {}
    ) -> httpx.Response:
        headers, content = {"Content-Type": "application/json", **headers}, json.dumps(body).encode()
        return await self.front.http.post(f"/api/calls/{call_sid}/transfer", content=content, headers=headers)

    async def after_dial(self, call_sid: CallSid, **more: str) -> httpx.Response:
        fields = form(call_sid) | {"CallStatus": "in-progress", **more}
        url = "/twilio/after-dial"
        return await self.front.post(url, fields, sign(TOKEN, f"{PUBLIC}{url}", fields.items()))

    async def leave(self, call: ActiveCall) -> None:
        """Have a call transferred, whose stream then stops."""
        await self.ask(sid(call))
        call.handle_event(Stopped())


def sid(call: ActiveCall) -> CallSid:
    return call.session.record.call_sid


@pytest.fixture
def transferring() -> Transferring:
    return Transferring()


@pytest_asyncio.fixture
async def call(transferring: Transferring) -> ActiveCall:
    return await transferring.front.talk()


async def test_an_operator_transfers_a_call_and_its_slot_is_free(transferring: Transferring, call: ActiveCall) -> None:
    answer = await transferring.ask(sid(call))
    assert (answer.status_code, answer.json()["to"]) == (202, "…0009")
    [(call_sid, text)] = transferring.rest.followed
    [dial] = twiml.parse(text)
    assert call_sid == sid(call)
    assert isinstance(dial, twiml.Dial)
    assert (dial.to, dial.action) == (ANN, f"{PUBLIC}/twilio/after-dial")
    assert dial.caller_id == call.session.record.caller
    call.handle_event(Stopped())
    assert call.session.record.end is EndReason.TRANSFERRED
    assert transferring.front.manager.free_slots == 2


OURS, DOMAIN = "+15550100000", "sip:moshi@example.sip.twilio.com"


@pytest.mark.parametrize(
    ("caller", "called", "to", "shown"),
    [
        ("15550100001", OURS, ANN, "+15550100001"),
        ("anonymous", OURS, ANN, OURS),
        *((caller, OURS, ANN, OURS) for caller in ("sip:alice@example.com", "client:alice", "whatsapp:+15550100001")),
        ("sip:+15550100001@example.com;user=phone", DOMAIN, ANN, "+15550100007"),
        ("sip:alice@example.com", DOMAIN, "sip:bob@example.com", "sip:alice@example.com"),
    ],
)
async def test_a_person_at_a_number_sees_a_number(caller: str, called: str, to: str, shown: str) -> None:
    """Twilio refuses any other caller ID there (13214), and the call would come back at once."""
    transferring = Transferring(transfer_to=to, twilio_phone_number="+15550100007")
    call = await transferring.front.talk()
    call.session.record.caller, call.session.record.called = caller, called
    await transferring.ask(sid(call))
    [dial] = twiml.parse(transferring.rest.followed[0][1])
    assert isinstance(dial, twiml.Dial)
    assert dial.caller_id == shown


async def test_who_answers_has_the_call_to_its_end(transferring: Transferring, call: ActiveCall) -> None:
    await transferring.leave(call)
    answer = await transferring.after_dial(sid(call), DialCallStatus="completed", DialCallDuration="61")
    assert twiml.parse(answer.text) == (twiml.Hangup(),)
    [transfer] = (await transferring.front.http.get(f"/api/calls/{sid(call)}")).json()["transfers"]
    assert (transfer["status"], transfer["duration_s"], transfer["to"]) == ("completed", 61, "…0009")


async def test_a_caller_who_hangs_up_before_anybody_answers_does_not_come_back(
    transferring: Transferring, call: ActiveCall
) -> None:
    await transferring.leave(call)
    answer = await transferring.after_dial(sid(call), DialCallStatus="no-answer", CallStatus="completed")
    assert twiml.parse(answer.text) == (twiml.Hangup(),)
    assert transferring.front.manager.free_slots == 2


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed", "canceled", ""])
async def test_a_call_that_nobody_answers_is_back_with_moshi(
    transferring: Transferring, call: ActiveCall, status: str
) -> None:
    await transferring.leave(call)
    answer = await transferring.after_dial(sid(call), DialCallStatus=status)
    [verb] = twiml.parse(answer.text)
    assert isinstance(verb, twiml.Connect)
    assert transferring.front.manager.record(sid(call)) is call.session.record


async def test_the_callers_key_transfers_once(transferring: Transferring, call: ActiveCall) -> None:
    for digit in "900":
        call.handle_event(DtmfPressed(digit))
        await settle()
    assert len(transferring.rest.followed) == 1
    assert call.session.record.transfers[0].by == "the caller's key"


async def test_a_call_that_the_carrier_does_not_transfer_goes_on(transferring: Transferring, call: ActiveCall) -> None:
    transferring.rest.fault = RestError("Twilio answered with HTTP 500", status=500)
    answer = await transferring.ask(sid(call))
    assert (answer.status_code, answer.json()["detail"]) == (502, "Twilio answered with HTTP 500")
    assert not call.over
    transferring.rest.fault = None
    assert (await transferring.ask(sid(call))).status_code == 202
    call.handle_event(Stopped())
    assert [one.status for one in call.session.record.transfers] == ["Twilio answered with HTTP 500", ""]


@pytest.mark.parametrize("end", [EndReason.CALLER_HUNG_UP, EndReason.SOCKET_LOST])
@pytest.mark.parametrize("is_refused", [True, False])
async def test_a_call_whose_stream_ends_while_the_carrier_is_asked_was_transferred_unless_it_refuses(
    transferring: Transferring, call: ActiveCall, end: EndReason, is_refused: bool
) -> None:
    transferring.rest.meanwhile = lambda: call.end(end)
    transferring.rest.fault = RestError("the call is not in progress", status=400) if is_refused else None
    await transferring.ask(sid(call))
    record = call.session.record
    assert (record.end, record.streams[0].end) == 2 * ((end if is_refused else EndReason.TRANSFERRED),)
    assert (await transferring.front.http.get(f"/api/calls/{sid(call)}")).json()["end"] == record.end


async def test_a_key_does_not_have_a_call_transferred_for_ever(transferring: Transferring, call: ActiveCall) -> None:
    transferring.rest.fault = RestError("Twilio answered with HTTP 500", status=500)
    for _ in range(2 * MOST_TRANSFERS):
        call.handle_event(DtmfPressed("0"))
        await settle()
    assert len(call.session.record.transfers) == MOST_TRANSFERS
    assert not call.over


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"to": "+15552222222"}, 403),
        ({"to": "112"}, 422),
        ({"to": 5}, 422),
        ({"whom": ANN}, 422),
        ({"to": ANN}, 202),
    ],
    ids=lambda value: str(value),
)
async def test_only_who_is_allowed_is_dialled(
    transferring: Transferring, call: ActiveCall, body: dict[str, object], status: int
) -> None:
    assert (await transferring.ask(sid(call), body)).status_code == status
    assert len(transferring.rest.followed) == (status == 202)


@pytest.mark.parametrize("state", ["ringing", "ending", "over", "unknown"])
async def test_a_call_that_is_not_live_is_not_transferred(transferring: Transferring, state: str) -> None:
    if state == "ringing":
        await transferring.front.ring(call_sid := new_call_sid())
    else:
        call = await transferring.front.talk()
        call_sid = new_call_sid() if state == "unknown" else sid(call)
        if state != "unknown":
            call.handle_event(Stopped())
    assert (await transferring.ask(call_sid)).status_code == (409 if state == "ringing" else 404)


async def test_without_an_account_the_reason_names_the_settings(transferring: Transferring) -> None:
    transferring.front = Front(transferring.front.settings)
    answer = await transferring.ask(sid(await transferring.front.talk()))
    assert (answer.status_code, "TWILIO_AUTH_TOKEN" in answer.json()["detail"]) == (409, True)
