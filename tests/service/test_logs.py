"""What a whole service writes to standard error through calls, refusals and failures: nothing that is private."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from app.twilio.events import DtmfPressed, Stopped
from app.twilio.signature import SIGNATURE_HEADER
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, SECONDARY, TOKEN, Phone, closing_code, new_call_sid
from tests.service.test_serve import GOOD, ROOT, Program, free_port

CALLER, CALLED, BLOCKED = "+15550107431", "+15550102222", "+15550109631"
OPERATOR, PASSWORD, PIN = "an-operators-secret-token", "the-databases-password", "8052"
SIGNATURE = "c2lnbmF0dXJlIG9mIG5vYm9keQ=="
PRIVATE = [CALLER[1:], CALLED[1:], BLOCKED[1:], TOKEN, SECONDARY, OPERATOR, PASSWORD, SIGNATURE, "Bearer"]


@asynccontextmanager
async def serving(folder: Path, **settings: str) -> AsyncIterator[tuple[Program, Phone]]:
    port = free_port()
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        **GOOD,
        "PYTHONPATH": ROOT,
        "PORT": str(port),
        "MAX_CALLS": "1",
        "CACHE_DIR": str(folder),
        "OPERATOR_TOKEN": OPERATOR,
        "TWILIO_AUTH_TOKEN_SECONDARY": SECONDARY,
        "TWILIO_PHONE_NUMBER": CALLED,
        "BLOCKED_CALLERS": BLOCKED,
        "DATABASE_URL": f"postgresql://us:{PASSWORD}@127.0.0.1:{free_port()}/calls",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "serve", "--log-level", "debug"),
        cwd=folder,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            yield Program(process), Phone(port, http)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def live_through(program: Program, phone: Phone) -> list[str]:
    """Do everything that leaves a line; return all lines."""
    lines = await lines_until(program, "ready for calls")
    ours = {"AccountSid": ACCOUNT, "From": CALLER, "To": CALLED}
    async with phone.call() as call:
        await call.speaks(3)
        for digit in PIN:
            await call.socket.send(call.carrier.send(DtmfPressed(digit)))
        fields = {**ours, "CallSid": new_call_sid()}
        assert "<Reject" in (await phone.post("/twilio/voice", fields)).text, "busy"
        assert "<Reject" in (await phone.post("/twilio/voice", {**fields, "From": BLOCKED})).text
        await phone.post("/twilio/status", {**ours, "CallSid": call.call_sid, "CallStatus": "in-progress"})
        error = {"StreamEvent": "stream-error", "StreamError": f"cannot reach {CALLER}"}
        await phone.post("/twilio/status", {**ours, "CallSid": call.call_sid, **error})
        await phone.post(f"/twilio/voice?greeting_frames={CALLER}", fields)
        await phone.post("/twilio/after-wait", {**fields, "QueueResult": f"{CALLER}\nforged"})
        await call.socket.send(call.carrier.send(Stopped()))
        assert await closing_code(call.socket) == 1000
    away = {"Host": "phone.example.com", "Authorization": f"Bearer {OPERATOR}x"}
    for path in ("/metrics", f"/api/calls/{CALLER}", "/twilio/voice", f"/twilio/media/{TOKEN}"):
        for headers in (away, {**away, SIGNATURE_HEADER: SIGNATURE}):
            await phone.http.post(path, headers=headers)
            await phone.http.get(path, headers=headers)
    url = await phone.stream_url(new_call_sid())
    socket_token = url.rpartition("/")[2]
    os.kill(max(program.everybody()[1:]), signal.SIGKILL)
    lines += await lines_until(program, "is gone")
    program.process.terminate()
    status, words = await program.end()
    assert status == 0
    lines += words.splitlines()
    assert not any(socket_token in line for line in lines)
    return lines


async def lines_until(program: Program, text: str) -> list[str]:
    assert program.process.stderr
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while not lines or text not in lines[-1]:
            line = (await program.process.stderr.readline()).decode()
            assert line, f"the program ended without a word of {text!r}"
            lines.append(line.rstrip("\n"))
    return lines


def assert_nothing_private(lines: list[str]) -> None:
    everything = "\n".join(lines)
    assert [private for private in PRIVATE if private in everything] == []
    for words in ("call from …", "…9631 rejected", "key *", "refused: not signed", "refused: for operators", "is gone"):
        assert words in everything, f"nothing was proved: {words} is missing"
    assert not re.search(r"key \d", everything)
    assert "Traceback" not in everything


async def test_lines_of_text_have_no_number_no_secret_and_no_key(tmp_path: Path) -> None:
    async with serving(tmp_path, LOG_FORMAT="text") as (program, phone):
        assert_nothing_private(await live_through(program, phone))


async def test_lines_of_json_have_nothing_private_either_and_name_their_call(tmp_path: Path) -> None:
    async with serving(tmp_path) as (program, phone):
        written = await live_through(program, phone)
    assert_nothing_private(written)
    lines = [json.loads(line) for line in written]
    assert all({"time", "level", "process", "logger", "message"} <= line.keys() for line in lines)
    of_calls = [line for line in lines if line["message"].startswith(("slot ", "call ", "key ", "ended", "no slot"))]
    assert len(of_calls) >= 10
    assert all(re.fullmatch(r"CA\d{32}", line["call_sid"]) for line in of_calls)
    (ended,) = (line for line in of_calls if line.get("end") == "caller_hung_up")
    assert (ended["level"], ended["counts"]["packets_in"], ended["counts"]["dtmf"]) == ("info", 12, 4)
    (lost,) = (line for line in of_calls if line.get("end") == "worker_lost")
    assert lost["level"] == "warning"
    (gone,) = (line for line in lines if "is gone" in line["message"])
    assert gone["level"] == "error"
    assert len([line for line in lines if "forged" in line["message"]]) == 1


async def test_a_terminal_gets_lines_for_people(tmp_path: Path) -> None:
    """And everybody else lines for machines: see above, where standard error is a pipe."""
    leader, follower = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from app.logging import LogFormat; print(LogFormat.AUTO.resolve())"),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ROOT},
        stdout=asyncio.subprocess.PIPE,
        stderr=follower,
    )
    out, _ = await process.communicate()
    os.close(leader)
    os.close(follower)
    assert out.strip() == b"text"
