"""Calls that are ended or sent elsewhere from outside while they are on."""

from dataclasses import replace

import pytest

from app.simulator.call import simulate
from app.simulator.remote import EndCall, FetchTwiml, Remote, RunTwiml
from app.simulator.report import Outcome
from app.twilio import twiml
from app.twilio.events import Media, Started, Stopped
from tests.app.simulator.small_server import PUBLIC_URL, Line, connect, echo, serving
from tests.app.simulator.test_call import options


def test_an_order_is_taken_once_and_a_later_one_replaces_it() -> None:
    remote = Remote()
    assert (remote.ordered, remote.take()) == (False, None)
    remote.give(EndCall())
    remote.give(FetchTwiml("https://a.b"))
    assert remote.ordered
    assert (remote.take(), remote.take()) == (FetchTwiml("https://a.b"), None)


async def test_waiting_is_over_when_the_order_comes() -> None:
    remote = Remote()
    remote.give(EndCall())
    assert await remote.wait() == EndCall()
    assert not remote.ordered


async def test_a_call_ended_from_outside_leaves_its_stream_in_order() -> None:
    remote = Remote()

    async def part(line: Line) -> None:
        await line.until(Media)
        remote.give(EndCall())
        await line.until(Stopped)

    async with serving(part) as server:
        report = await simulate(replace(options(server), audio=None, duration_s=3_600.0), remote=remote)
    assert report.outcome is Outcome.ENDED_REMOTELY
    assert server.lines[0].events[-1] == Stopped()


@pytest.mark.parametrize("order", [FetchTwiml(f"{PUBLIC_URL}/elsewhere?a=b"), RunTwiml(connect("/media/again"))])
async def test_a_call_sent_elsewhere_begins_another_stream(order: FetchTwiml | RunTwiml) -> None:
    remote = Remote()

    async def part(line: Line) -> None:
        await line.until(Media)
        remote.give(order)
        await line.until(Stopped)

    async with serving(part, echo, answers=[connect(), connect("/media/again")]) as server:
        report = await simulate(options(server), remote=remote)
    assert report.outcome is Outcome.CALLER_HUNG_UP
    assert [stream.url[-6:] for stream in report.streams] == ["/token", "/again"]
    asked = [(path, form["CallStatus"]) for path, form in server.asked]
    fetched = [("/elsewhere", "in-progress")] if isinstance(order, FetchTwiml) else []
    assert asked == [("/twilio/voice", "ringing"), *fetched]


async def test_an_order_before_the_stream_is_carried_out_at_its_start() -> None:
    remote = Remote()
    remote.give(RunTwiml(twiml.hangup()))

    async def part(line: Line) -> None:
        assert isinstance(await line.until(Started), Started)
        await line.until(Stopped)

    async with serving(part) as server:
        report = await simulate(replace(options(server), duration_s=3_600.0), remote=remote)
    assert (report.outcome, report.sentence) == (Outcome.SERVER_HUNG_UP, "<Hangup>")
