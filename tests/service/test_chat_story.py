"""A chat is a call like any other: one story with all that watches calls and rules over them."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from typer.testing import CliRunner
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from app.calls.end_reason import EndReason
from app.cli.main import cli
from app.twilio.events import CallSid
from tests.processes.pipeline import PATIENCE_S
from tests.service.served import Served, served
from tests.service.test_chat import AUDIO, PAGE, dial, int16, next_of, opened, refusal, tone
from tests.service.test_one_story import samples, until


@pytest.mark.slow
async def test_a_chat_is_a_call_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, folder = f"sqlite:///{tmp_path}/calls.db", tmp_path / "recordings"
    async with served(
        max_calls=2, database_url=url, recordings_dir=str(folder), record_calls="all", chat_token="a-token-for-chats"
    ) as service:
        first = await hung_up(service)
        last = await drained(service)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("RECORDINGS_DIR", str(folder))
    kept = {call["call_sid"]: call["end_reason"] for call in json.loads(asked("calls", "--json"))}
    assert (len(kept), kept.pop(first), kept.pop(last)) == (3, EndReason.OPERATOR, EndReason.SHUTDOWN)
    assert list(kept.values()) == [EndReason.CALLER_HUNG_UP]
    assert EndReason.OPERATOR in asked("calls", "show", first)
    assert asked("forget", first).endswith("deleted, with 1 recording\n")
    assert asked("forget", "client:chat").endswith("deleted, with 2 recordings\n")
    assert (json.loads(asked("calls", "--json")), [*folder.glob("*chat*")]) == ([], [])


async def hung_up(service: Served) -> CallSid:
    """Chat until an operator hangs up; return the id. Everything that watches calls knows of it."""
    async with dial(service, "?format=pcm") as socket:
        metadata = await opened(socket)
        call_sid = CallSid(metadata["call_sid"])
        assert metadata["recorded"] is True
        async with connect(f"{service.url.replace('http', 'ws')}/api/calls/{call_sid}/events", proxy=None) as events:
            await speak(socket, 20)
            assert json.loads(await events.recv())["call_sid"] == call_sid

        async def is_loud() -> bool:
            await speak(socket, 5)
            (live,) = (await ask(service, "/api/live"))["calls"]
            assert (live["call_sid"], live["state"]) == (call_sid, "active")
            return bool(max(live["caller_dbfs"], live["moshi_dbfs"]) > -20)

        await until(is_loud)
        assert [call["call_sid"] for call in await ask(service, "/api/calls")] == [call_sid]
        said = await service.http.post(f"/api/calls/{call_sid}/say?wait=true", json={"text": "Hello there."})
        assert said.status_code == 200, said.text
        async with dial(service) as other:
            await opened(other)
            assert await refusal(service) == (503, "no slot is free")
        hung_up = await service.http.post(f"/api/calls/{call_sid}/hangup")
        assert hung_up.status_code == 202
        with pytest.raises(ConnectionClosedOK):
            await speak(socket, 1_000)
    assert service.record(call_sid).end is EndReason.OPERATOR
    told = samples((await service.http.get("/metrics")).text)
    assert told["moshi_bridge_calls_ended_total operator"] == 1
    assert told["moshi_bridge_calls_turned_down_total busy"] == 1
    assert told["moshi_bridge_mouth_to_ear_seconds_count"] > 0

    async def kept() -> Any:
        answer = await service.http.get(f"/api/history/{call_sid}")
        return answer.status_code == 200 and answer.json()["ended_at"] and answer.json()

    assert (await until(kept))["end_reason"] == EndReason.OPERATOR

    async def recorded() -> Any:
        answer = await service.http.get(f"/api/calls/{call_sid}/recording")
        return answer if answer.headers["content-type"] == "audio/flac" else None

    sound, rate_hz = soundfile.read(io.BytesIO((await until(recorded)).content))
    assert (rate_hz, sound.shape[1]) == (24_000, 2)
    assert abs(sound).max(axis=0).min() > 0.1, "both are heard"
    return call_sid


async def drained(service: Served) -> CallSid:
    """Chat while the service drains; return the id. What is on goes on, nothing new begins."""
    async with dial(service, "?format=pcm") as socket:
        call_sid = CallSid((await opened(socket))["call_sid"])
        assert (await service.http.post("/api/drain?seconds=4")).status_code == 202
        assert await refusal(service) == (503, "not ready")
        with pytest.raises(ConnectionClosedError):
            await speak(socket, 1_000)
    return call_sid


async def speak(socket: ClientConnection, messages: int) -> None:
    """Speak a tone at the pace at which Moshi does."""
    for _ in range(messages):
        await next_of(socket, AUDIO)
        await socket.send(AUDIO + int16(tone(2 * PAGE)))


async def ask(service: Served, path: str) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return (await service.http.get(path)).raise_for_status().json()


def asked(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout
