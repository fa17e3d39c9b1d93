"""A call that is transferred: the real service, the simulator as telephone network, the fake of its REST API."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

from app.calls.end_reason import EndReason
from app.calls.events import EventKind
from app.calls.record import CallRecord
from app.simulator.call import simulate
from app.simulator.progress import Progress, StreamOpened
from app.simulator.remote import EndCall, Remote
from app.simulator.report import CallReport, Outcome
from app.twilio.rest import TwilioRest
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, TOKEN, new_call_sid
from tests.service.served import Served, served
from tests.twilio_rest.account import Account
from tests.twilio_rest.server import FakeRest, serving_rest

ANN = "+15550100009"
Transferred = tuple[CallReport, CallRecord, dict[str, str]]


@asynccontextmanager
async def transferring() -> AsyncIterator[Callable[[str], "asyncio.Task[Transferred]"]]:
    """Run a service; yield what calls it, has the call transferred and returns what came of it."""
    async with (
        serving_rest(Account(ACCOUNT, TOKEN)) as fake,
        served(transfer_to=ANN, rest=TwilioRest(ACCOUNT, TOKEN, fake.url)) as running,
    ):
        yield lambda status: asyncio.create_task(_call(running, fake, status))


async def _call(running: Served, fake: FakeRest, dial_status: str) -> Transferred:
    call_sid, remote = new_call_sid(), Remote()
    fake.adopt(call_sid, remote.send)
    options = running.phone.options(duration_s=PATIENCE_S, call_sid=call_sid, dial_status=dial_status)
    streams = count(1)

    def hang_up_on_the_second(progress: Progress) -> None:
        if isinstance(progress, StreamOpened) and next(streams) == 2:
            remote.send(EndCall())

    async with asyncio.timeout(PATIENCE_S), running.service.manager.events.subscribe(call_sid) as events:
        calling = asyncio.create_task(simulate(options, hang_up_on_the_second, remote))
        async for event in events:
            if event.kind is EventKind.CONNECTED:
                break
        answer = await running.phone.http.post(f"/api/calls/{call_sid}/transfer", json={})
        assert answer.status_code == 202
        report = await calling
    [form] = [dict(form) for asked, form in fake.asked if asked == "POST Calls"]
    return report, running.record(call_sid), form


async def test_somebody_answers_and_moshi_is_out_of_it() -> None:
    async with transferring() as call:
        report, record, form = await call("completed")
    assert ANN in form["Twiml"]
    assert (report.outcome, len(report.streams)) == (Outcome.SERVER_HUNG_UP, 1)
    assert record.end is EndReason.TRANSFERRED
    assert [one.status for one in record.transfers] == ["completed"]


async def test_nobody_answers_and_the_call_is_back_with_moshi() -> None:
    async with transferring() as call:
        report, record, _ = await call("no-answer")
    assert (report.outcome, len(report.streams)) == (Outcome.ENDED_REMOTELY, 2)
    assert [stream.end for stream in record.streams] == [EndReason.TRANSFERRED, EndReason.CALLER_HUNG_UP]
    assert [one.status for one in record.transfers] == ["no-answer"]
