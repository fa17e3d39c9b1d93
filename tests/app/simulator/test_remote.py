"""Calls that are ended or sent elsewhere from outside while they are on."""

from dataclasses import replace

from app.simulator.call import simulate
from app.simulator.remote import EndCall, Redirect, Remote
from app.simulator.report import Outcome
from app.twilio.events import Media, Started, Stopped
from tests.app.simulator.small_server import PUBLIC_URL, Line, connect, echo, serving
from tests.app.simulator.test_call import options


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

    async def part(line: Line) -> None:
        assert isinstance(await line.until(Started), Started)
        await line.until(Stopped)

    async with serving(part) as server:
        report = await simulate(replace(options(server), duration_s=3_600.0), remote=remote)
    assert report.outcome is Outcome.ENDED_REMOTELY
