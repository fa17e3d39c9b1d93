"""Who is refused where: every route of Twilio's against everything that is not Twilio calling us now.

`TABLE` is the claim; the tests make each request as an attacker would who knows all but the auth token, or repeats one
of Twilio's own requests. A route that is not in the table fails the first test.
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum

import pytest
from starlette.routing import BaseRoute

from app.calls.admission import TTL_S
from app.calls.end_reason import EndReason
from app.twilio.signature import sign
from tests.service.front import SOCKET_BASE, Front
from tests.service.phone import CONNECTED, PUBLIC, TOKEN, form, new_call_sid, start

VOICE, AFTER, STATUS = "/twilio/voice", "/twilio/after-stream", "/twilio/status"
AFTER_DIAL = "/twilio/after-dial"
WAIT, AFTER_WAIT = "/twilio/wait", "/twilio/after-wait"
MEDIA, SELFTEST = "/twilio/media/{token}", "/twilio/selftest"
WEBHOOKS = (VOICE, AFTER, AFTER_DIAL, STATUS, WAIT, AFTER_WAIT)
ROUTES = (*WEBHOOKS, MEDIA, SELFTEST)


class Verdict(StrEnum):
    """What becomes of it."""

    REFUSED = "refused before anything is read into it: 403"
    HUNG_UP = "the socket is open, and closed at the start message, before any audio"
    NO_TOKEN = "this route carries no token, and names no account"


WEBHOOKS_AND_SOCKET = dict.fromkeys(ROUTES, Verdict.REFUSED)
SOCKET_ALONE = {**dict.fromkeys(ROUTES, Verdict.NO_TOKEN), MEDIA: Verdict.REFUSED}
TABLE: dict[str, dict[str, Verdict]] = {
    "no signature": WEBHOOKS_AND_SOCKET,
    "empty signature": WEBHOOKS_AND_SOCKET,
    "wrong token": WEBHOOKS_AND_SOCKET,
    "other host": WEBHOOKS_AND_SOCKET,
    "http for https": WEBHOOKS_AND_SOCKET,
    "signature of another route": WEBHOOKS_AND_SOCKET,
    "other account": {**WEBHOOKS_AND_SOCKET, MEDIA: Verdict.HUNG_UP, SELFTEST: Verdict.NO_TOKEN},
    "other call": {**SOCKET_ALONE, MEDIA: Verdict.HUNG_UP},
    "replayed socket URL": SOCKET_ALONE,
    "used token": SOCKET_ALONE,
    "unknown token": SOCKET_ALONE,
    "expired reservation": SOCKET_ALONE,
}
CASES = [(name, route) for name, verdicts in TABLE.items() for route in verdicts if verdicts[route] != Verdict.NO_TOKEN]


def paths(routes: list[BaseRoute]) -> set[str]:
    found: set[str] = set()
    for route in routes:
        inner = getattr(route, "original_router", None)  # as FastAPI keeps a router that was included
        found |= paths(inner.routes) if inner is not None else {getattr(route, "path", "")}
    return found


async def test_the_table_names_every_route_of_twilios() -> None:
    served = {path for path in paths(Front().app.routes) if path.startswith("/twilio")}
    assert served == set(ROUTES)
    assert all(set(verdicts) == set(ROUTES) for verdicts in TABLE.values())


def forged(name: str, base: str, path: str, fields: dict[str, str]) -> str | None:
    """Return the signature that somebody puts on a request to `base` and `path` whom the table calls by that name."""
    own = sign(TOKEN, base + path, fields.items())
    return {
        "no signature": None,
        "empty signature": "",
        "wrong token": sign("another token", base + path, fields.items()),
        "other host": sign(TOKEN, base.replace("phone.", "evil.") + path, fields.items()),
        "http for https": sign(TOKEN, base.replace("https:", "http:").replace("wss:", "ws:") + path, fields.items()),
        "signature of another route": sign(TOKEN, f"{PUBLIC}/twilio/else", fields.items()),
    }.get(name, own)


@pytest.mark.parametrize(("name", "route"), [case for case in CASES if case[1] in WEBHOOKS])
async def test_a_webhook_is_refused_and_takes_no_slot(name: str, route: str) -> None:
    front = Front()
    fields = form(new_call_sid())
    if name == "other account":
        fields["AccountSid"] = "ACtheirs"
    answer = await front.post(route, fields, forged(name, PUBLIC, route, fields))
    assert answer.status_code == 403
    assert front.manager.free_slots == 2
    assert front.sent == []


@pytest.mark.parametrize(
    "path", ["/twilio/voice/", "/twilio/%76oice", "/twilio%2fvoice", "/twilio/voice?", "/twilio/voice?a=b"]
)
async def test_a_path_is_signed_as_it_is_written(path: str) -> None:
    front = Front()
    fields = form(new_call_sid())
    answer = await front.post(path, fields, sign(TOKEN, f"{PUBLIC}{VOICE}", fields.items()))
    assert answer.status_code == (200 if path == "/twilio/voice?" else 403)


Arrange = Callable[[Front, str], Awaitable[str]]


async def unchanged(_: Front, path: str) -> str:
    return path


async def call_is_over(front: Front, path: str) -> str:
    await front.dial(path, sign(TOKEN, SOCKET_BASE + path))
    return path


async def call_is_on(front: Front, path: str) -> str:
    assert front.manager.claim(path.rpartition("/")[2]) is not None
    return path


async def another_token(_: Front, path: str) -> str:
    return path[:-1] + ("A" if path[-1] != "A" else "B")


async def rang_long_ago(front: Front, path: str) -> str:
    front.now_s += TTL_S
    return path


ARRANGED: dict[str, Arrange] = {
    "replayed socket URL": call_is_over,
    "used token": call_is_on,
    "unknown token": another_token,
    "expired reservation": rang_long_ago,
}


@pytest.mark.parametrize(
    "name", [name for name, route in CASES if TABLE[name][MEDIA] is Verdict.REFUSED and route == MEDIA]
)
async def test_a_socket_is_refused_before_it_is_accepted(name: str) -> None:
    front = Front()
    path = await ARRANGED.get(name, unchanged)(front, await front.ring(new_call_sid()))
    dialled = await front.dial(path, forged(name, SOCKET_BASE, path, {}), [CONNECTED])
    assert (dialled.accepted, dialled.code, dialled.heard) == (False, 403, [])
    if name not in ARRANGED:  # a refusal uses nothing up
        assert (await front.dial(path, sign(TOKEN, SOCKET_BASE + path), [CONNECTED])).accepted


@pytest.mark.parametrize("name", [name for name, route in CASES if route == SELFTEST])
async def test_a_self_test_is_refused_before_it_is_accepted(name: str) -> None:
    dialled = await Front().dial(SELFTEST, forged(name, SOCKET_BASE, SELFTEST, {}), ["nonce"])
    assert (dialled.accepted, dialled.code, dialled.heard) == (False, 403, [])


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name][MEDIA] is Verdict.HUNG_UP])
async def test_a_stream_that_is_not_the_one_that_rang_is_hung_up_on_before_any_audio(name: str) -> None:
    front = Front()
    call_sid, other = new_call_sid(), new_call_sid()
    path = await front.ring(call_sid)
    begun = {"other account": start(call_sid, accountSid="ACtheirs"), "other call": start(other)}[name]
    dialled = await front.dial(path, sign(TOKEN, SOCKET_BASE + path), [CONNECTED, begun])
    assert dialled.accepted
    assert dialled.heard == []
    (record,) = front.manager.records()
    assert record.end is EndReason.WRONG_CALL
    assert front.manager.free_slots == 2


async def test_control_characters_in_a_number_reach_no_log() -> None:
    front = Front()
    fields = {**form(new_call_sid()), "From": "sip:eve\x1b[2J", "To": "a\nb\x9b\u202e", "Direction": "in\x1bbound"}
    await front.post(VOICE, fields, sign(TOKEN, PUBLIC + VOICE, fields.items()))
    [record] = front.manager.records()
    kept = (record.caller, record.called, record.direction)
    assert kept == ("sip:eve[2J", "ab", "inbound")


async def test_twilio_itself_is_let_in_everywhere() -> None:
    """Or the table would be kept by a service that refuses everybody."""
    front = Front()
    call_sid = new_call_sid()
    fields = form(call_sid)
    for route, status in ((AFTER, 200), (AFTER_DIAL, 200), (STATUS, 204), (WAIT, 200), (AFTER_WAIT, 200)):
        assert (await front.post(route, fields, sign(TOKEN, PUBLIC + route, fields.items()))).status_code == status
    path = await front.ring(call_sid)
    dialled = await front.dial(path, sign(TOKEN, SOCKET_BASE + path), [CONNECTED, start(call_sid)])
    assert (dialled.accepted, front.manager.records()[0].started_s) == (True, 0.0)
