"""What a whole service writes to standard error through calls, refusals and failures: nothing that is private."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from app.cli.service_process import free_port
from app.logging import LogFormat
from app.twilio.events import DtmfPressed, Stopped
from app.twilio.signature import SIGNATURE_HEADER
from tests.service.phone import ACCOUNT, SECONDARY, TOKEN, Phone, closing_code, new_call_sid
from tests.service.test_serve import Program, serving

CALLER, CALLED, BLOCKED = "+15550107431", "+15550102222", "+15550109631"
OPERATOR, PASSWORD, PIN = "an-operators-secret-token", "the-databases-password", "8052"
SIGNATURE = "c2lnbmF0dXJlIG9mIG5vYm9keQ=="
PRIVATE = [CALLER[1:], CALLED[1:], BLOCKED[1:], TOKEN, SECONDARY, OPERATOR, PASSWORD, SIGNATURE, "Bearer"]
SETTINGS = {
    "OPERATOR_TOKEN": OPERATOR,
    "TWILIO_AUTH_TOKEN_SECONDARY": SECONDARY,
    "TWILIO_PHONE_NUMBER": CALLED,
    "BLOCKED_CALLERS": BLOCKED,
}


async def lived_through(folder: Path, **settings: str) -> list[str]:
    """Run a service whose database is away through everything that leaves a line; return the lines."""
    database = f"postgresql://us:{PASSWORD}@127.0.0.1:{free_port()}/calls"
    everything = {**SETTINGS, "DATABASE_URL": database, "MAX_CALLS": "1", "CACHE_DIR": str(folder), **settings}
    async with serving(folder, "--log-level", "debug", **everything) as (program, phone):
        return await live_through(program, phone)


async def live_through(program: Program, phone: Phone) -> list[str]:
    """Do everything that leaves a line; return all lines."""
    lines: list[str] = []
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
    lines += await program.until("is gone")
    program.process.terminate()
    status, words = await program.end()
    assert status == 0
    lines += words.splitlines()
    assert not any(socket_token in line for line in lines)
    return lines


def assert_nothing_private(lines: list[str]) -> None:
    everything = "\n".join(lines)
    assert [private for private in PRIVATE if private in everything] == []
    for words in ("call from …", "…9631 rejected", "key *", "refused: not signed", "refused: for operators", "is gone"):
        assert words in everything, f"nothing was proved: {words} is missing"
    assert not re.search(r"key \d", everything)
    assert "Traceback" not in everything


@pytest.mark.slow
async def test_lines_of_text_have_no_number_no_secret_and_no_key(tmp_path: Path) -> None:
    assert_nothing_private(await lived_through(tmp_path, LOG_FORMAT="text"))


async def test_lines_of_json_have_nothing_private_either_and_name_their_call(tmp_path: Path) -> None:
    written = await lived_through(tmp_path)
    assert_nothing_private(written)
    lines = [json.loads(line) for line in written]
    assert all({"time", "level", "process", "logger", "message"} <= line.keys() for line in lines)
    of_calls = [line for line in lines if line["message"].startswith(("slot ", "call ", "key ", "ended", "no slot"))]
    assert len(of_calls) >= 10
    assert all(re.fullmatch(r"CA\d{32}", line["call_sid"]) for line in of_calls)
    (ended,) = (line for line in of_calls if line.get("end") == "caller_hung_up")
    assert (ended["level"], ended["counts"]["packets_in"], ended["counts"]["dtmf"]) == ("info", 12, 4)
    (lost,) = (line for line in lines if line["message"].startswith("the pipeline is lost"))
    assert (lost["level"], re.fullmatch(r"CA\d{32}", lost["call_sid"]) is not None) == ("warning", True)
    (gone,) = (line for line in lines if "is gone" in line["message"])
    assert gone["level"] == "error"
    assert len([line for line in lines if "forged" in line["message"]]) == 1


def test_a_terminal_gets_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """And everybody else lines for machines: see above, where standard error is a pipe."""
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb"), os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert LogFormat.AUTO.resolve() == "text"
        monkeypatch.undo()
