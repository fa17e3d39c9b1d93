"""Calls that are ended or redirected while they are on or wait in the queue."""

from dataclasses import replace

import pytest

from app.simulator.call import simulate
from app.simulator.progress import Progress, Waiting
from app.simulator.remote import EndCall, Redirect, Remote
from app.simulator.report import Outcome
from app.twilio import twiml
from app.twilio.events import Media, Stopped
from tests.app.simulator.small_server import PUBLIC_URL, Line, SmallServer, connect, echo, serving
from tests.app.simulator.test_call import options

LONG_S = 600
QUEUED = twiml.enqueue(f"{PUBLIC_URL}/wait", f"{PUBLIC_URL}/left")


def test_an_order_is_carried_out_once_and_a_later_one_replaces_it() -> None:
    remote = Remote()
    assert (remote.ordered, remote.pop()) == (False, None)
    remote.send(EndCall())
    remote.send(Redirect("https://a.b"))
    assert remote.ordered
    assert (remote.pop(), remote.pop()) == (Redirect("https://a.b"), None)


async def test_a_call_ended_from_outside_leaves_its_stream_in_order() -> None:
    remote = Remote()

    async def part(line: Line) -> None:
        await line.until(Media)
        remote.send(EndCall())
        await line.until(Stopped)

    async with serving(part) as server:
        report = await simulate(replace(options(server), audio=None, duration_s=3_600.0), remote=remote)
    assert report.outcome is Outcome.ENDED_REMOTELY
    assert server.lines[0].events[-1] == Stopped()


async def test_a_call_sent_elsewhere_begins_another_stream() -> None:
    remote = Remote()

    async def part(line: Line) -> None:
        await line.until(Media)
        remote.send(Redirect(f"{PUBLIC_URL}/elsewhere?a=b"))
        await line.until(Stopped)

    async with serving(part, echo, answers=[connect(), connect("/media/again")]) as server:
        report = await simulate(options(server), remote=remote)
    assert report.outcome is Outcome.CALLER_HUNG_UP
    assert [stream.url[-6:] for stream in report.streams] == ["/token", "/again"]
    asked = [(path, form["CallStatus"]) for path, form in server.asked]
    assert asked == [("/twilio/voice", "ringing"), ("/elsewhere", "in-progress")]


async def test_an_order_before_the_stream_is_carried_out_at_its_start() -> None:
    remote = Remote()
    remote.send(EndCall())
    async with serving(echo) as server:
        report = await simulate(replace(options(server), duration_s=3_600.0), remote=remote)
    assert report.outcome is Outcome.ENDED_REMOTELY


def paths(server: SmallServer) -> list[str]:
    return [path for path, _ in server.asked]


async def test_a_call_in_the_queue_goes_where_it_is_redirected_to() -> None:
    remote = Remote()

    def redirect(progress: Progress) -> None:
        if isinstance(progress, Waiting):
            remote.send(Redirect(f"{PUBLIC_URL}/again"))

    answers = [QUEUED, twiml.pause(LONG_S), twiml.hangup(), connect()]
    async with serving(echo, answers=answers) as server:
        report = await simulate(replace(options(server), duration_s=0.2), redirect, remote)
    assert report.outcome is Outcome.CALLER_HUNG_UP
    assert len(report.streams) == 1
    assert paths(server) == ["/twilio/voice", "/wait", "/left", "/again"]
    assert server.asked[2][1]["QueueResult"] == "redirected"


async def test_a_wait_page_that_has_run_out_is_asked_for_again() -> None:
    answers = [QUEUED, twiml.pause(0), twiml.pause(0), twiml.leave(), twiml.hangup()]
    async with serving(answers=answers) as server:
        report = await simulate(options(server))
    assert report.outcome is Outcome.SERVER_HUNG_UP
    assert paths(server) == ["/twilio/voice", "/wait", "/wait", "/wait", "/left"]


async def test_a_call_that_is_reported_to_leave_does_what_the_action_says() -> None:
    async with serving(echo, answers=[QUEUED, twiml.leave(), connect()]) as server:
        report = await simulate(replace(options(server), duration_s=0.2))
    assert len(report.streams) == 1
    assert server.asked[-1][1]["QueueResult"] == "leave"


@pytest.mark.parametrize(
    ("page", "patience_s", "outcome"),
    [
        (twiml.pause(LONG_S), 0.1, Outcome.CALLER_HUNG_UP),
        (twiml.hangup(), float(LONG_S), Outcome.SERVER_HUNG_UP),
    ],
)
async def test_a_call_that_ends_in_the_queue_calls_the_action(page: str, patience_s: float, outcome: Outcome) -> None:
    async with serving(answers=[QUEUED, page, twiml.hangup()]) as server:
        report = await simulate(replace(options(server), patience_s=patience_s))
    assert (report.outcome, report.streams) == (outcome, ())
    assert server.asked[-1][0] == "/left"
    assert server.asked[-1][1]["QueueResult"] == "hangup"


async def test_a_wait_page_that_takes_no_time_is_no_wait_page() -> None:
    async with serving(answers=[QUEUED, "<Response/>"]) as server:
        assert (await simulate(options(server))).outcome is Outcome.BAD_TWIML
