"""One CallSid, several streams, over real HTTP and sockets: what Twilio does after keys, a transfer, a lost stream."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from app.calls.record import CallRecord, EndReason
from app.cli.main import cli
from app.config import read_settings
from app.server.service import Service
from app.twilio.events import CallSid, Stopped
from app.twilio.twiml import Connect, Hangup, Verb
from tests.processes.pipeline import PATIENCE_S, log_lines
from tests.service.phone import ACCOUNT, PUBLIC, TOKEN, Call, Phone, closing_code, form, new_call_sid

SLOTS = 2


@dataclass
class Served:
    """A running service that records all calls, and a phone to call it with."""

    service: Service
    phone: Phone
    folder: Path

    def record(self, call_sid: CallSid) -> CallRecord:
        record = self.service.manager.record(call_sid)
        assert record
        return record

    @contextlib.asynccontextmanager
    async def stream(self, call_sid: CallSid, verb: Verb) -> AsyncIterator[Call]:
        """Open the socket of an answer, and start."""
        assert isinstance(verb, Connect)
        async with self.phone.dial(verb.url) as media:
            call = Call(call_sid, media)
            await call.begin()
            yield call

    async def until_ended(self, call_sid: CallSid, streams: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while sum(one.end is not None for one in self.record(call_sid).streams) < streams:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def recorded(self, call_sid: CallSid, count: int) -> list[str]:
        """Return the names of the recordings once so many are finished."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := sorted(self.folder.glob(f"*-{call_sid}.flac"))) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return [path.stem for path in found]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    settings = read_settings(
        engine="loopback",
        codec="loopback",
        max_calls=SLOTS,
        public_url=PUBLIC,
        twilio_auth_token=TOKEN,
        twilio_account_sid=ACCOUNT,
        recordings_dir=str(tmp_path / "recordings"),
        database_url=f"sqlite:///{tmp_path}/calls.db",
        calls_per_number_per_hour=1,
    )
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        service = Service(settings, lambda _: None)
        async with log_lines("app") as log, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            serving = asyncio.create_task(service.run(sock))
            async with asyncio.timeout(PATIENCE_S):
                while "ready for calls" not in await log.get():
                    pass
            yield Served(service, Phone(port, http), tmp_path / "recordings")
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


async def test_a_call_of_three_streams_and_many_repeats_is_one_call(served: Served) -> None:
    phone, board, sid = served.phone, served.service.manager, new_call_sid()
    rings = {"CallStatus": "ringing", "webhook_token": "t1"}
    verb = await phone.voice(sid, **rings)
    assert await phone.voice(sid, **rings) == verb
    async with served.stream(sid, verb) as first:
        await first.speaks(3)
        assert await phone.voice(sid, **rings) == verb
        assert board.free_slots == SLOTS - 1
        back = await phone.voice(sid, CallStatus="in-progress", webhook_token="t2")
        await first.speaks()
        async with served.stream(sid, back) as second:
            assert await closing_code(first.socket) == 1000
            await second.speaks(3)
            assert board.free_slots == SLOTS - 1
            await second.socket.send(second.carrier.send(Stopped()))
            await served.until_ended(sid, 2)
    async with served.stream(sid, await phone.voice(sid, CallStatus="in-progress", webhook_token="t3")) as third:
        await third.speaks(3)
    await served.until_ended(sid, 3)
    await phone.post("/twilio/status", {**form(sid), "CallStatus": "completed", "SequenceNumber": "3"})
    await phone.post("/twilio/status", {**form(sid), "CallStatus": "ringing", "SequenceNumber": "1"})
    for again in (rings, {"CallStatus": "in-progress", "webhook_token": "t4"}):
        assert await phone.voice(sid, **again) == Hangup()

    assert board.free_slots == SLOTS
    ends = [EndReason.REPLACED, EndReason.CALLER_HUNG_UP, EndReason.SOCKET_LOST]
    assert [stream.end for stream in served.record(sid).streams] == ends
    told = (await phone.http.get(f"/api/calls/{sid}")).json()
    assert (told["end"], told["status"], len(told["streams"])) == ("the socket was lost", "completed", 3)
    assert told["counts"]["packets_in"] >= 4 * 10
    assert [one["call_sid"] for one in (await phone.http.get("/api/calls")).json()] == [sid]
    metrics = (await phone.http.get("/metrics")).text.splitlines()
    ended = [line.split()[-1] for line in metrics if line.startswith("moshi_bridge_calls_ended_total{")]
    assert sum(map(float, ended)) == 1

    names = await served.recorded(sid, 3)
    assert names == [stream.recording.name for stream in served.record(sid).streams]
    for name in names:
        outline = await phone.http.get(f"/api/calls/{sid}/waveform", params={"name": name})
        assert outline.json()["seconds"] > 0


@pytest.mark.skipif(not find_spec("app.telemetry.call_log.merge"), reason="the call log has no table of streams yet")
async def test_forget_deletes_the_recordings_of_every_stream(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    phone, sid = served.phone, new_call_sid()
    for number in range(2):
        async with served.stream(sid, await phone.voice(sid)) as call:
            await call.speaks(2)
        await served.until_ended(sid, number + 1)
    await served.recorded(sid, 2)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{served.folder.parent}/calls.db")
    monkeypatch.setenv("RECORDINGS_DIR", str(served.folder))
    async with asyncio.timeout(PATIENCE_S):
        while sum(bool(one["ended_at"]) for one in await kept_streams(sid)) < 2:  # noqa: ASYNC110 - a thread writes
            await asyncio.sleep(0.1)
    shown = await told("calls", "show", sid)
    assert all(f"stream {number}" in shown for number in (1, 2))
    await told("forget", form(sid)["From"])
    assert list(served.folder.iterdir()) == []


async def told(*command: str) -> str:
    """Return what a command of the program prints, "" if it fails."""
    ran = await asyncio.to_thread(CliRunner().invoke, cli, list(command))
    return ran.stdout if ran.exit_code == 0 else ""


async def kept_streams(call_sid: CallSid) -> list[dict[str, object]]:
    """Return the streams of a call as the call log has them."""
    shown = await told("calls", "show", call_sid, "--json")
    streams: list[dict[str, object]] = json.loads(shown)["streams"] if shown else []
    return streams


async def test_the_number_of_a_call_that_came_back_has_called_once(served: Served) -> None:
    phone, sid = served.phone, new_call_sid()
    for number in range(2):
        async with served.stream(sid, await phone.voice(sid, CallStatus="in-progress" if number else "ringing")):
            pass
        await served.until_ended(sid, number + 1)
    answer = await phone.post("/twilio/voice", form(new_call_sid()))
    assert "<Reject" in answer.text
