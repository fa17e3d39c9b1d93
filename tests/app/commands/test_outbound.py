"""Outbound calls: what is asked for, what came of it; and following one, against the stand-in."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.commands.outbound import (
    ExitStatus,
    Machine,
    NotReady,
    OutboundCall,
    Wish,
    call_request,
    checked,
    dialable,
    masked_fields,
    require_ready,
    verdict,
)
from app.config import Settings, SettingsError, read_settings
from app.simulator.account import NO_ANSWER, TOO_MANY_CALLS, UNAVAILABLE, Account, OwnedNumber
from app.simulator.callee import Answer, Callee
from app.simulator.rest import RestStandIn, serving_rest
from app.twilio.events import CallSid
from app.twilio.rest import CallRequest, CallStatus, RestCall, TwilioRest
from app.twilio.rest_door import RestError

SID, TOKEN, OURS, THEIRS = "AC" + "5" * 32, "the-rest-token", "+15550100000", "+15550100001"
PUBLIC = "https://phone.example.com"
SETTINGS = read_settings(twilio_phone_number=OURS, public_url=PUBLIC)
REQUEST = CallRequest(THEIRS, OURS, f"{PUBLIC}/twilio/voice", f"{PUBLIC}/twilio/status")


# What is asked for.


@pytest.mark.parametrize(
    ("written", "e164"),
    [
        ("+15551234567", "+15551234567"),
        ("+1 (555) 123-4567", "+15551234567"),
        (" +49 30 901820 ", "+4930901820"),
        ("+44 (0)20 7946 0958", "+442079460958"),  # Ofcom keeps this one for drama
    ],
)
def test_a_number_may_be_written_as_people_do(written: str, e164: str) -> None:
    assert dialable(written, "number") == e164


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("5551234567", "country code first"),
        ("", "country code first"),
        ("+", "like"),
        ("+1555123456", "too short"),
        ("+155512345678", "too long"),
        ("+999123456789", "no phone number"),
        ("+1555CALLME", "too short|no phone number"),
    ],
)
def test_a_number_that_cannot_be_is_told_in_one_line(written: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        dialable(written, "number")
    assert "\n" not in str(caught.value)
    assert len(written) <= 4 or written not in str(caught.value)


def test_what_is_wished_is_asked_for() -> None:
    wish = Wish(THEIRS, "+1 555 010 0002", 60, 7, record=True, machine=Machine.WAIT)
    settings = SETTINGS.model_copy(update={"recordings_dir": "recordings"})
    assert call_request(checked(settings, wish), PUBLIC).fields() == [
        ("To", THEIRS),
        ("From", "+15550100002"),
        ("Url", f"{PUBLIC}/twilio/voice?greeting_frames=7&record=true"),
        ("Method", "POST"),
        ("StatusCallback", f"{PUBLIC}/twilio/status"),
        ("StatusCallbackMethod", "POST"),
        *(("StatusCallbackEvent", event) for event in ("initiated", "ringing", "answered", "completed")),
        ("TimeLimit", "60"),
        ("MachineDetection", "DetectMessageEnd"),
    ]


def test_a_recording_that_would_not_be_kept_is_refused() -> None:
    with pytest.raises(SettingsError, match="RECORDINGS_DIR"):
        checked(SETTINGS, Wish(THEIRS, record=True))


def test_a_plain_wish_calls_from_our_number_with_the_service_as_it_is_set() -> None:
    assert call_request(checked(SETTINGS, Wish(THEIRS)), PUBLIC) == REQUEST


def test_no_greeting_is_a_wish_too() -> None:
    wish = checked(SETTINGS, Wish(THEIRS, greeting_frames=0))
    assert call_request(wish, PUBLIC).voice_url.endswith("?greeting_frames=0")


@pytest.mark.parametrize(
    ("settings", "wish", "named"),
    [
        (read_settings(public_url=PUBLIC), Wish(THEIRS), "TWILIO_PHONE_NUMBER is not set"),
        (SETTINGS, Wish("12"), "the number to call 12"),
        (SETTINGS, Wish(THEIRS, "12"), "the number to call from 12"),
        (SETTINGS, Wish(THEIRS, greeting_frames=26), "GREETING_FRAMES=25"),
    ],
)
def test_what_cannot_be_asked_for_is_told_in_one_line(settings: Settings, wish: Wish, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        checked(settings, wish)
    assert "\n" not in str(caught.value)


def test_people_are_shown_no_number() -> None:
    shown = dict(masked_fields(REQUEST))
    assert (shown["To"], shown["From"]) == ("…0001", "…0000")


# What came of it.


@pytest.mark.parametrize(
    ("call", "errors", "status", "named"),
    [
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED, duration_s=7), (), ExitStatus.COMPLETED, "after 7 s"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED, "human", 7), (), ExitStatus.COMPLETED, "after 7 s"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED, "machine_start", 0), (), ExitStatus.MACHINE, "machine"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED, "machine_end_beep", 9), (), ExitStatus.COMPLETED, "after 9 s"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED), (11200,), ExitStatus.FAILED, "11200: .*webhook"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED), (31920,), ExitStatus.FAILED, "31920: .*media socket"),
        (RestCall(CallSid("CA1"), CallStatus.BUSY), (), ExitStatus.BUSY, "busy"),
        (RestCall(CallSid("CA1"), CallStatus.NO_ANSWER), (), ExitStatus.NO_ANSWER, "no answer"),
        (RestCall(CallSid("CA1"), CallStatus.FAILED), (21215,), ExitStatus.FAILED, "21215: .*country"),
        (RestCall(CallSid("CA1"), CallStatus.CANCELED), (), ExitStatus.FAILED, "canceled"),
    ],
)
def test_every_end_has_its_exit_status_and_sentence(
    call: RestCall, errors: tuple[int, ...], status: ExitStatus, named: str
) -> None:
    found = verdict(call, errors)
    assert found.status is status
    assert re.search(named, found.sentence)


@pytest.mark.parametrize("status", [status for status in CallStatus if not status.over])
def test_a_call_that_is_on_has_no_verdict(status: CallStatus) -> None:
    with pytest.raises(ValueError, match=status):
        verdict(RestCall(CallSid("CA1"), status), ())


# Following a call.


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


async def test_a_look_that_fails_for_a_moment_changes_nothing() -> None:
    async with twilio(Callee(Answer.BUSY)) as (stand_in, call, watch):
        stand_in.faults["GET Calls"].extend([UNAVAILABLE, NO_ANSWER])
        assert (await call.run(watch.show)).status is ExitStatus.BUSY


async def test_a_call_that_is_lost_from_sight_is_told_by_its_sid() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        stand_in.faults["GET Calls"].extend([UNAVAILABLE] * 10)
        found = await call.run(watch.show)
        [sid] = stand_in.account.calls
    assert found.status is ExitStatus.FAILED
    assert sid in found.sentence


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
        assert await call.stop() == "stopped; the call was hung up"
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


async def test_stopping_before_there_is_a_call_is_told() -> None:
    async with twilio(Callee()) as (stand_in, call, _):
        assert await call.stop() == "stopped before the call was placed"
        assert stand_in.asked == []


async def test_a_call_that_could_not_be_hung_up_is_told_by_its_sid() -> None:
    async with twilio(Callee(rings_s=None)) as (stand_in, call, watch):
        running = asyncio.create_task(call.run(watch.show))
        await watch.on.wait()
        running.cancel()
        [sid] = stand_in.account.calls
        stand_in.faults["POST Calls"].extend([UNAVAILABLE] * 10)
        assert f"{sid} may still be on" in await call.stop()


# Whether the bridge is there.


@asynccontextmanager
async def bridge(ready: int = 200, alive: int = 200, told: object = None) -> AsyncIterator[Settings]:
    """Serve these answers; both inside and outside are this machine. `told` is what it says of its address."""

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(status=ready)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(status=alive)

    async def public(_: web.Request) -> web.Response:
        return web.Response(status=404) if told is None else web.json_response(told)

    application = web.Application()
    application.add_routes(
        [web.get("/readyz", readyz), web.get("/{prefix:.*}healthz", healthz), web.get("/api/public", public)]
    )
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield read_settings(port=runner.addresses[0][1], twilio_api_url="http://127.0.0.1:1")
    finally:
        await runner.cleanup()


async def test_a_bridge_that_is_ready_and_can_be_reached_may_call() -> None:
    async with bridge() as settings:
        assert await require_ready(settings) == settings.base_url


async def test_a_bridge_knows_best_where_it_is_reached() -> None:
    async with bridge() as elsewhere, bridge(told={"base_url": f"{elsewhere.base_url}/tunnel"}) as settings:
        assert await require_ready(settings) == f"{elsewhere.base_url}/tunnel"


@pytest.mark.parametrize("told", [[], {}, {"base_url": 7}, "…"])
async def test_a_bridge_that_does_not_say_is_taken_to_be_at_its_public_url(told: object) -> None:
    async with bridge(told=told) as settings:
        assert await require_ready(settings) == settings.base_url


@pytest.mark.parametrize(
    ("ready", "alive", "named"),
    [(503, 200, "no call now"), (404, 200, "no bridge at .*404"), (200, 530, "PUBLIC_URL=.*530")],
)
async def test_a_bridge_that_is_not_is_told_in_one_line(ready: int, alive: int, named: str) -> None:
    async with bridge(ready, alive) as settings:
        with pytest.raises(NotReady, match=named) as caught:
            await require_ready(settings)
    assert "\n" not in str(caught.value)


async def test_a_bridge_that_is_not_there_is_told_and_so_is_a_tunnel() -> None:
    async with bridge() as settings:
        outside = settings.model_copy(update={"public_url": "http://127.0.0.1:1"})
        with pytest.raises(NotReady, match="is the tunnel up"):
            await require_ready(outside)
    with pytest.raises(NotReady, match="moshi-bridge serve"):
        await require_ready(settings)


async def test_twilio_itself_cannot_reach_this_machine_by_its_loopback_address() -> None:
    async with bridge() as settings:
        with pytest.raises(NotReady, match="PUBLIC_URL: Twilio cannot reach http://127"):
            await require_ready(settings.model_copy(update={"twilio_api_url": ""}))
