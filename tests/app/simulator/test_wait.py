"""A caller in the queue, against a small server; the pauses are long, so what ends them is what the test says."""

from dataclasses import replace

import pytest

from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.progress import Progress, Waiting
from app.simulator.remote import Redirect, Remote
from app.simulator.report import CallReport, Outcome
from app.twilio import twiml
from tests.app.simulator.small_server import PUBLIC_URL, TOKEN, SmallServer, connect, echo, serving

LONG_S = 600
QUEUED = twiml.enqueue(f"{PUBLIC_URL}/wait", f"{PUBLIC_URL}/left")


def options(server: SmallServer) -> CallOptions:
    return CallOptions(PUBLIC_URL, TOKEN, "AC1", duration_s=0.2, dial_url=server.url, call_sid="CAann")


async def redirected(wanted: CallOptions) -> CallReport:
    """Run a call that is redirected to /again once it waits."""
    remote = Remote()

    def redirect(progress: Progress) -> None:
        if isinstance(progress, Waiting):
            remote.send(Redirect(f"{PUBLIC_URL}/again"))

    return await simulate(wanted, redirect, remote)


def paths(server: SmallServer) -> list[str]:
    return [path for path, _ in server.asked]


async def test_a_call_in_the_queue_goes_where_it_is_redirected_to() -> None:
    answers = [QUEUED, twiml.pause(LONG_S), twiml.hangup(), connect()]
    async with serving(echo, answers=answers) as server:
        report = await redirected(options(server))
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
        report = await simulate(options(server))
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
