"""`make-call` as a process against `moshi-bridge serve` as a process; only Twilio is played, by the REST stand-in."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio

from app.simulator import conversation
from app.simulator.measure import mouth_to_ear_ms, window_snr_db
from app.simulator.report import Outcome
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import LOOPBACK, Program, free_port, serve
from tests.twilio_rest.account import (
    NO_ANSWER,
    TOO_MANY_CALLS,
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    Account,
    Fault,
    OwnedNumber,
    PlacedCall,
)
from tests.twilio_rest.callee import Answer, Callee
from tests.twilio_rest.server import Held, RestStandIn, serving_rest

OURS, THEIRS = "+15550100000", "+15550100001"
ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Ended:
    """What a process has said, and how it ended."""

    status: int
    out: str
    err: str


@dataclass
class Office:
    """A bridge, a Twilio, and a desk to call from."""

    bridge: Program
    twilio: RestStandIn
    settings: dict[str, str]
    folder: Path

    async def start(self, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
        return await self.spawn(arguments, settings)

    async def spawn(
        self,
        arguments: Sequence[str],
        settings: Mapping[str, str],
        ignored: int = 0,
        terminal: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        """Start it with a signal that it is to ignore, or on a terminal of its own, which it then controls."""

        def prepare() -> None:
            if ignored:
                signal.signal(ignored, signal.SIG_IGN)
            if terminal > 0:
                os.login_tty(terminal)

        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "scripts.make_call", *arguments),
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(ROOT), **self.settings, **settings},
            stdout=terminal,
            stderr=terminal,
            preexec_fn=prepare,
        )

    async def make_call(self, *arguments: str, **settings: str) -> Ended:
        process = await self.start(*arguments, **settings)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        ended = Ended(process.returncode, out.decode(), err.decode())
        assert "Traceback" not in ended.err
        assert not any(number[1:] in ended.out + ended.err for number in (OURS, THEIRS))
        return ended

    @property
    def calls(self) -> list[PlacedCall]:
        return list(self.twilio.account.calls.values())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def building(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Program, dict[str, str], Path]]:
    folder, port = tmp_path_factory.mktemp("bridge"), str(free_port())
    settings = {
        **LOOPBACK,
        "PORT": port,
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "TWILIO_ACCOUNT_SID": ACCOUNT,
        "TWILIO_AUTH_TOKEN": TOKEN,
        "TWILIO_PHONE_NUMBER": OURS,
        "RECORDINGS_DIR": str(folder / "recordings"),
        "RECORD_CALLS": "asked",
    }
    async with serve(folder, **settings) as bridge:
        await bridge.until("ready for calls")
        yield bridge, settings, folder


@pytest_asyncio.fixture(loop_scope="module")
async def office(building: tuple[Program, dict[str, str], Path]) -> AsyncIterator[Office]:
    bridge, settings, folder = building
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[OwnedNumber(OURS)])) as twilio:
        yield Office(bridge, twilio, {**settings, "TWILIO_API_URL": twilio.url}, folder)


async def test_a_call_from_the_command_to_the_record(office: Office) -> None:
    """REST, ringing, TwiML, socket, both voices, hang-up, status callback, record."""
    said = np.resize(conversation.talk(), 2 * 8_000)
    office.twilio.callees = {THEIRS: Callee(audio=said, duration_s=2.0)}
    ended = await office.make_call(THEIRS, "--greeting-frames", "5", "--record", "--time-limit", "60")
    assert ended.status == 0, ended
    [call] = office.calls
    assert call.report is not None
    assert call.report.outcome is Outcome.CALLER_HUNG_UP
    delay = mouth_to_ear_ms(call.report.said, call.report.heard, window_s=0.2)
    assert np.median(window_snr_db(call.report.said, call.report.heard, delay, window_s=0.2)) > 15
    assert dict(call.form)["Url"].endswith("/twilio/voice?greeting_frames=5&record=true")
    assert f"queued ({call.sid})" in ended.out
    assert "make-call: completed after" in ended.out
    for status in ("initiated", "ringing", "in-progress", "completed"):
        await office.bridge.until(f'"call_sid": "{call.sid}", "message": "call {status}"')
    async with httpx.AsyncClient(base_url=office.settings["PUBLIC_URL"]) as http:
        record = (await http.get(f"/api/calls/{call.sid}")).json()
    assert record["end"] == "caller hung up"
    assert record["counts"]["frames_out"] > 10
    assert record["recording"].endswith(call.sid)
    await office.bridge.until(f'"call_sid": "{call.sid}", "message": "recorded in')
    assert len(list((office.folder / "recordings").glob(f"*{call.sid}.flac"))) == 1


async def test_a_call_that_is_not_to_be_recorded_is_not(office: Office) -> None:
    office.twilio.callees = {THEIRS: Callee(duration_s=1.0)}
    assert (await office.make_call(THEIRS)).status == 0
    [call] = office.calls
    async with httpx.AsyncClient(base_url=office.settings["PUBLIC_URL"]) as http:
        assert (await http.get(f"/api/calls/{call.sid}")).json()["recording"] == "no recording"
        assert (await http.get(f"/api/calls/{call.sid}/recording")).status_code == 404
    assert list((office.folder / "recordings").glob(f"*{call.sid}*")) == []


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [(Answer.BUSY, 4, "busy"), (Answer.NO_ANSWER, 5, "no answer"), (Answer.FAILED, 1, "failed")],
)
async def test_an_unanswered_call_has_its_exit_status(office: Office, answer: Answer, status: int, said: str) -> None:
    office.twilio.callees = {THEIRS: Callee(answer)}
    ended = await office.make_call(THEIRS)
    assert (ended.status, f"make-call: {said}" in ended.err) == (status, True), ended


async def test_a_machine_is_hung_up_on(office: Office) -> None:
    office.twilio.callees = {THEIRS: Callee(machine=True)}
    ended = await office.make_call(THEIRS, "--answering-machine", "hang-up")
    assert (ended.status, "machine" in ended.err) == (6, True), ended
    [call] = office.calls
    assert call.report is not None
    assert (call.report.outcome, call.report.streams) == (Outcome.SERVER_HUNG_UP, ())


async def test_a_machine_that_was_waited_for_is_spoken_to(office: Office) -> None:
    office.twilio.callees = {THEIRS: Callee(machine=True, duration_s=0.5)}
    ended = await office.make_call(THEIRS, "--answering-machine", "wait")
    assert ended.status == 0, ended
    [call] = office.calls
    assert call.report is not None
    assert len(call.report.streams) == 1


@pytest.mark.parametrize(
    ("fault", "code", "advice"),
    [
        (Fault(401, 20003, "Authenticate"), 20003, "TWILIO_AUTH_TOKEN"),
        (Fault(400, 21211, f"{THEIRS} is not valid"), 21211, "country code"),
        (TOO_MANY_CALLS, 10004, "wait for one to end"),
    ],
    ids=["20003", "21211", "10004"],
)
async def test_a_refusal_of_twilios_is_one_line_with_what_to_do(
    office: Office, fault: Fault, code: int, advice: str
) -> None:
    office.twilio.faults["POST Calls"].append(fault)
    ended = await office.make_call(THEIRS)
    assert ended.status == 1
    [line] = ended.err.splitlines()
    assert line.startswith(f"make-call: {code}: ")
    assert advice in line


async def test_the_wrong_token_is_reported(office: Office) -> None:
    ended = await office.make_call(THEIRS, TWILIO_AUTH_TOKEN="another")
    assert (ended.status, "20003" in ended.err) == (1, True), ended
    assert "another" not in ended.out + ended.err


async def test_being_turned_away_for_a_moment_is_not_noticed(office: Office) -> None:
    office.twilio.faults["POST Calls"].append(TOO_MANY_REQUESTS)
    office.twilio.faults["GET Calls"].append(UNAVAILABLE)
    office.twilio.callees = {THEIRS: Callee(duration_s=0.5)}
    assert (await office.make_call(THEIRS)).status == 0
    assert len(office.calls) == 1


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
async def test_a_signal_hangs_up(office: Office, number: signal.Signals) -> None:
    office.twilio.callees = {THEIRS: Callee(duration_s=3_600.0)}
    process = await office.start(THEIRS)
    assert process.stdout
    async with asyncio.timeout(PATIENCE_S):
        while "answered" not in (line := (await process.stdout.readline()).decode()):
            assert line
        process.send_signal(number)
        _, err = await process.communicate()
        await office.twilio.settle()
    assert (process.returncode, err.decode()) == (130, "make-call: stopped; the call was hung up\n")
    [call] = office.calls
    assert call.report is not None
    assert call.report.outcome is Outcome.ENDED_REMOTELY


async def test_under_nohup_the_end_of_the_terminal_does_not_end_the_call(office: Office) -> None:
    office.twilio.callees = {THEIRS: Callee(duration_s=1.0)}
    process = await office.spawn([THEIRS], {}, ignored=signal.SIGHUP)
    assert process.stdout
    async with asyncio.timeout(PATIENCE_S):
        while "answered" not in (line := (await process.stdout.readline()).decode()):
            assert line
        process.send_signal(signal.SIGHUP)
        out, _ = await process.communicate()
    assert (process.returncode, "completed after" in out.decode()) == (0, True)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
async def test_a_signal_while_twilio_has_the_request_finds_the_call_and_hangs_up(
    office: Office, number: signal.Signals
) -> None:
    """Twilio places the call, the signal comes, and the answer is lost."""
    office.twilio.callees = {THEIRS: Callee(rings_s=None)}
    held = office.twilio.held["POST Calls"] = Held()
    office.twilio.faults["POST Calls"].append(replace(NO_ANSWER, carried_out=True))
    process = await office.start(THEIRS)
    async with asyncio.timeout(PATIENCE_S):
        await held.reached.wait()
        process.send_signal(number)
        del office.twilio.held["POST Calls"]
        held.release.set()
        _, err = await process.communicate()
        await office.twilio.settle()
    [line] = err.decode().splitlines()
    [call] = office.calls
    assert call.status == "canceled"
    assert process.returncode in (1, 130), "the answer may be lost before the signal is seen"
    assert line.endswith("it was placed; the call was hung up")


async def test_two_signals_end_it_at_once_and_say_that_the_call_may_ring(office: Office) -> None:
    office.twilio.callees = {THEIRS: Callee(rings_s=None)}
    held = office.twilio.held["POST Calls"] = Held()
    process = await office.start(THEIRS)
    async with asyncio.timeout(PATIENCE_S):
        await held.reached.wait()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    held.release.set()
    assert (process.returncode, err.decode()) == (7, "make-call: stopped at once; …0001 may be called\n")


async def test_the_end_of_its_terminal_hangs_up(office: Office) -> None:
    """A terminal that is closed sends SIGHUP, and what is written to it then fails."""
    office.twilio.callees = {THEIRS: Callee(duration_s=3_600.0)}
    ours, theirs = os.openpty()
    process = await office.spawn([THEIRS], {}, terminal=theirs)
    os.close(theirs)
    shown = b""
    async with asyncio.timeout(PATIENCE_S):
        while b"answered" not in shown:
            shown += await asyncio.to_thread(os.read, ours, 4_096)
        os.close(ours)
        await process.wait()
        await office.twilio.settle()
    assert process.returncode == 130
    [call] = office.calls
    assert call.report is not None
    assert call.report.outcome is Outcome.ENDED_REMOTELY


async def test_a_dry_run_shows_the_request_and_asks_nobody(office: Office) -> None:
    ended = await office.make_call(THEIRS, "--dry-run", "--time-limit", "60", PORT="1")
    assert ended.status == 0
    assert f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json" in ended.out
    shown = {line.split()[0]: line.split()[1] for line in ended.out.splitlines() if line.startswith("  ")}
    assert (shown["To"], shown["From"], shown["TimeLimit"]) == ("…0001", "…0000", "60")
    assert office.twilio.asked == []


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "named"),
    [
        (("12345",), {}, 2, "country code"),
        (("sip:alice@example.com",), {}, 2, "no phone number"),
        ((f"{THEIRS},,12ab",), {}, 2, "no phone number"),
        ((THEIRS, "--from", "12345"), {}, 2, "the number to call from"),
        ((THEIRS,), {"HOST": "x86_64-conda-linux-gnu"}, 2, "MOSHI_BRIDGE_HOST wins over it"),
        ((THEIRS, "--greeting-frames", "99"), {}, 2, "GREETING_FRAMES=25"),
        ((THEIRS,), {"TWILIO_PHONE_NUMBER": ""}, 2, "TWILIO_PHONE_NUMBER"),
        ((THEIRS,), {"TWILIO_AUTH_TOKEN": ""}, 2, "TWILIO_AUTH_TOKEN"),
        ((THEIRS,), {"TWILIO_API_URL": "twilio"}, 2, "TWILIO_API_URL"),
        ((THEIRS,), {"PORT": "1"}, 3, "moshi-bridge serve"),
    ],
    ids=["number", "SIP", "extension", "from", "host", "greeting", "no number", "no token", "API", "no bridge"],
)
async def test_what_is_missing_is_reported_before_anybody_is_called(
    office: Office, arguments: tuple[str, ...], settings: dict[str, str], status: int, named: str
) -> None:
    ended = await office.make_call(*arguments, **settings)
    assert ended.status == status
    [line] = ended.err.splitlines()
    assert named in line
    assert office.twilio.asked == []
