"""`make-call` as a process against `moshi-bridge serve` as a process; only Twilio's REST API is a fake."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from app.cli.service_process import free_port
from app.simulator import conversation
from app.simulator.measure import mouth_to_ear_ms, window_snr_db
from app.simulator.remote import EndCall
from app.simulator.report import Outcome
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import LOOPBACK, Program, end, serve, start
from tests.twilio_rest.account import NO_ANSWER, Account, OwnedNumber, PlacedCall
from tests.twilio_rest.callee import Callee
from tests.twilio_rest.server import FakeRest, Held, serving_rest

OURS, THEIRS = "+15550100000", "+15550100001"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Office:
    """A running service, a fake of Twilio's REST API, and a folder to call from."""

    bridge: Program
    twilio: FakeRest
    settings: dict[str, str]
    folder: Path

    async def start(self, *arguments: str, **changes: Any) -> asyncio.subprocess.Process:
        return await start(self.folder, *arguments, **{"module": "scripts.make_call", **self.settings, **changes})

    async def make_call(self, *arguments: str, **settings: str) -> tuple[int, str, str]:
        """Return exit status, output and errors."""
        status, out, err = await end(await self.start(*arguments, **settings))
        assert "Traceback" not in err
        assert not any(number[1:] in out + err for number in (OURS, THEIRS))
        return status, out, err

    async def answered(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the command says that its call is answered."""
        assert process.stdout
        async with asyncio.timeout(PATIENCE_S):
            while b"answered" not in (line := await process.stdout.readline()):
                assert line

    @property
    def call(self) -> PlacedCall:
        """The only call."""
        [call] = self.twilio.account.calls.values()
        return call


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bridge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Program, dict[str, str], Path]]:
    folder, port = tmp_path_factory.mktemp("bridge"), str(free_port())
    (folder / "ada.toml").write_text('greeting = "Hello! I am Ada."')
    settings = {
        **LOOPBACK,
        "PORT": port,
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "TWILIO_ACCOUNT_SID": ACCOUNT,
        "TWILIO_AUTH_TOKEN": TOKEN,
        "TWILIO_PHONE_NUMBER": OURS,
        "RECORDINGS_DIR": str(folder / "recordings"),
        "RECORD_CALLS": "asked",
        "PERSONAS_DIR": str(folder),
    }
    async with serve(folder, **settings) as program:
        await program.until("ready for calls")
        yield program, settings, folder


@pytest_asyncio.fixture(loop_scope="module")
async def office(bridge: tuple[Program, dict[str, str], Path]) -> AsyncIterator[Office]:
    program, settings, folder = bridge
    async with serving_rest(Account(ACCOUNT, TOKEN, numbers=[OwnedNumber(OURS)])) as twilio:
        yield Office(program, twilio, {**settings, "TWILIO_API_URL": twilio.url}, folder)


async def test_a_call_from_the_command_to_the_record(office: Office) -> None:
    """REST, ringing, TwiML, socket, both voices, hang-up, status callback, record."""
    said = np.resize(conversation.talk(), 4 * 8_000)
    office.twilio.callees = {THEIRS: Callee(audio=said, duration_s=4.0)}
    options = ("--greeting-frames", "5", "--record", "--persona", "ada", "--time-limit", "60")
    status, out, err = await office.make_call(THEIRS, *options)
    assert status == 0, err
    call = office.call
    assert call.report is not None
    assert call.report.outcome is Outcome.CALLER_HUNG_UP
    latency = mouth_to_ear_ms(call.report.said, call.report.heard, window_s=0.2)
    assert np.median(window_snr_db(call.report.said, call.report.heard, latency, window_s=0.2)) > 15
    assert dict(call.form)["Url"].endswith("/twilio/voice?greeting_frames=5&record=true&persona=ada")
    assert f"queued ({call.sid})" in out
    assert "make-call: completed after" in out
    for state in ("initiated", "ringing", "in-progress", "completed"):
        await office.bridge.until(f'"call_sid": "{call.sid}", "message": "call {state}"')
    async with httpx.AsyncClient(base_url=office.settings["PUBLIC_URL"]) as http:
        record = (await http.get(f"/api/calls/{call.sid}")).json()
    assert (record["end"], record["persona"]) == ("caller hung up", "ada")
    assert record["counts"]["frames_out"] > 10
    assert record["recording"].endswith(call.sid)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if [*(office.folder / "recordings").glob(f"*{call.sid}.flac")]:
                break
            await asyncio.sleep(0.05)  # a thread encodes


async def test_a_persona_that_the_bridge_does_not_know_calls_nobody(office: Office) -> None:
    status, _, err = await office.make_call(THEIRS, "--persona", "bob")
    assert (status, err) == (2, "make-call: --persona bob: the bridge has no such persona (it has ada)\n")
    assert office.twilio.account.calls == {}


async def test_a_prompt_that_the_checkpoint_refuses_calls_nobody(office: Office) -> None:
    (office.folder / "eve.txt").write_text("You are Eve.")
    for prompt in ("You are Eve.", "@eve.txt"):
        status, _, err = await office.make_call(THEIRS, "--prompt", prompt)
        assert (status, err) == (2, "make-call: --prompt: this checkpoint takes no prompt and no voice\n")
    assert office.twilio.account.calls == {}
    status, out, _ = await office.make_call(THEIRS, "--prompt", "You are Eve.", "--dry-run")
    assert (status, "/twilio/voice?prompt=ID\n" in out, "You are" in out) == (0, True, False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_hangs_up(office: Office, number: signal.Signals) -> None:
    office.twilio.callees = {THEIRS: Callee(duration_s=3_600.0)}
    process = await office.start(THEIRS)
    await office.answered(process)
    process.send_signal(number)
    status, _, err = await end(process)
    await office.twilio.settle()
    assert (status, err) == (130, "make-call: stopped; the call was hung up\n")
    assert office.call.report is not None
    assert office.call.report.outcome is Outcome.ENDED_REMOTELY


@pytest.mark.slow
async def test_under_nohup_the_end_of_the_terminal_does_not_end_the_call(office: Office) -> None:
    office.twilio.callees = {THEIRS: Callee(duration_s=3_600.0)}
    process = await office.start(THEIRS, preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    await office.answered(process)
    process.send_signal(signal.SIGHUP)
    office.call.remote.send(EndCall())
    status, out, _ = await end(process)
    assert (status, "completed after" in out) == (0, True)


@pytest.mark.slow
async def test_a_signal_while_twilio_has_the_request_finds_the_call_and_hangs_up(office: Office) -> None:
    """Twilio places the call, the signal comes, and the answer is lost."""
    office.twilio.callees = {THEIRS: Callee(rings_s=None)}
    held = office.twilio.held["POST Calls"] = Held()
    office.twilio.faults["POST Calls"].append(replace(NO_ANSWER, carried_out=True))
    process = await office.start(THEIRS)
    await asyncio.wait_for(held.reached.wait(), PATIENCE_S)
    process.send_signal(signal.SIGINT)
    del office.twilio.held["POST Calls"]
    held.release.set()
    status, _, err = await end(process)
    await office.twilio.settle()
    [line] = err.splitlines()
    assert office.call.status == "canceled"
    assert status in (1, 130), "the answer may be lost before the signal is seen"
    assert line.endswith("it was placed; the call was hung up")


@pytest.mark.slow
async def test_two_signals_end_it_at_once_and_say_that_the_call_may_ring(office: Office) -> None:
    office.twilio.callees = {THEIRS: Callee(rings_s=None)}
    held = office.twilio.held["POST Calls"] = Held()
    process = await office.start(THEIRS)
    await asyncio.wait_for(held.reached.wait(), PATIENCE_S)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    status, _, err = await end(process)
    held.release.set()
    assert (status, err) == (7, "make-call: stopped at once; …0001 may be called\n")


@pytest.mark.slow
async def test_the_end_of_its_terminal_hangs_up(office: Office) -> None:
    """A terminal that is closed sends SIGHUP, and what is written to it then fails."""
    office.twilio.callees = {THEIRS: Callee(duration_s=3_600.0)}
    ours, theirs = os.openpty()
    process = await office.start(THEIRS, terminal=theirs)
    os.close(theirs)
    shown = b""
    async with asyncio.timeout(PATIENCE_S):
        while b"answered" not in shown:
            shown += await asyncio.to_thread(os.read, ours, 4_096)
        os.close(ours)
        await process.wait()
        await office.twilio.settle()
    assert process.returncode == 130
    assert office.call.report is not None
    assert office.call.report.outcome is Outcome.ENDED_REMOTELY
