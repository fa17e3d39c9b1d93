"""Recordings of a real service: real processes, real time, real kills."""

import asyncio
import contextlib
import io
import json
import math
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.simulator.call import simulate
from app.simulator.conversation import talk
from app.simulator.options import CallOptions
from app.telemetry.call_log.entry import KILLED
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_serve import Program, command, serving

RATE_HZ = 8_000
AUDIBLE = 500 / 32_768
WATCHED_S = 3.0

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[tuple[Program, httpx.AsyncClient, str]]:
    """Run a line test that records all calls; yield it, a client of it and its address."""
    settings = {"PUBLIC_URL": "", "DATABASE_URL": f"sqlite:///{folder}/calls.db"}
    settings |= {"RECORDINGS_DIR": str(folder / "recordings")}
    async with serving(folder, **settings) as (program, phone):
        yield program, phone.http, f"http://127.0.0.1:{phone.port}"


async def until_recorded(http: httpx.AsyncClient) -> str:
    """Return the SID of the call that is on, once something can be seen of it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for call in (await http.get("/api/calls")).json():
                waveform = await http.get(f"/api/calls/{call['call_sid']}/waveform?buckets=10")
                if (
                    waveform.status_code == 200
                    and waveform.json()["live"]
                    and max(waveform.json()["caller"]["max"], default=0) > 0.1
                ):
                    return str(call["call_sid"])
            await asyncio.sleep(0.05)


async def until_finished(http: httpx.AsyncClient, call_sid: str) -> httpx.Response:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            sound = await http.get(f"/api/calls/{call_sid}/recording")
            if sound.headers["content-type"] == "audio/flac":
                return sound
            await asyncio.sleep(0.05)


def audible_s(recording: bytes) -> list[float]:
    """Return up to when each side is heard."""
    sound, rate_hz = soundfile.read(io.BytesIO(recording))
    return [float(np.flatnonzero(np.abs(side) > AUDIBLE).max(initial=0)) / rate_hz for side in sound.T]


async def until_written(http: httpx.AsyncClient, call_sid: str) -> list[float]:
    """Return up to when each side is heard in what is on the disk once that lacks less than a second of the call.

    While it is watched a fourth of the answers must be as fresh: a stall may make most of them stale.
    """
    fresh: list[bool] = []
    began_s = math.inf
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (call,) = (await http.get("/api/live?first=true")).json()["calls"]
            now = await http.get(f"/api/calls/{call_sid}/recording")
            assert now.headers["content-type"] == "audio/wav"
            fresh.append(soundfile.info(io.BytesIO(now.content)).duration > call["for_s"] - 1.0)
            began_s = min(began_s, call["for_s"])
            if call["for_s"] > began_s + WATCHED_S and fresh[-1]:
                assert sum(fresh) > len(fresh) / 4
                return audible_s(now.content)
            await asyncio.sleep(0.05)


async def test_a_call_that_is_on_can_be_heard_and_is_recorded_up_to_the_second_before_a_kill(tmp_path: Path) -> None:
    async with recording(tmp_path) as (program, http, url):
        speaks = np.resize(talk(), 60 * RATE_HZ)
        calling = asyncio.create_task(simulate(CallOptions(url, TOKEN, ACCOUNT, audio=speaks)))
        written_s = await until_written(http, await until_recorded(http))
        os.kill(program.process.pid, signal.SIGKILL)
        report = await calling
        await program.end()
    async with recording(tmp_path) as (_, http, _):
        whole = await until_finished(http, report.call_sid)
    assert all(kept_s >= before_s for kept_s, before_s in zip(audible_s(whole.content), written_s, strict=True))
    url = f"sqlite:///{tmp_path}/calls.db"
    _, words, _ = await command(tmp_path, "calls", "show", report.call_sid, "--json", DATABASE_URL=url)
    kept = json.loads(words)
    assert kept["end_reason"] == KILLED
    assert kept["recording"].endswith(report.call_sid)


async def test_a_chat_is_recorded_at_24_khz_up_to_the_second_before_a_kill(tmp_path: Path) -> None:
    """The client speaks a tone of 6 kHz, which no phone has, and hears itself."""
    tone = (10_000 * np.sin(np.arange(1_920) * np.pi / 2)).astype("<i2").tobytes()

    async def speak(socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                if message[0] == 1:  # as much as is heard, so that it speaks in real time
                    await socket.send(b"\1" + tone[: len(message) - 1])

    async with recording(tmp_path) as (program, http, url):
        async with connect(f"{url.replace('http', 'ws')}/api/chat?format=pcm", compression=None, proxy=None) as socket:
            speaking = asyncio.create_task(speak(socket))
            call_sid = await until_recorded(http)
            written_s = await until_written(http, call_sid)
            os.kill(program.process.pid, signal.SIGKILL)
            await speaking
        await program.end()
    async with recording(tmp_path) as (_, http, _):
        whole = await until_finished(http, call_sid)
        outline = (await http.get(f"/api/calls/{call_sid}/waveform?buckets=10")).json()
    sound, rate_hz = soundfile.read(io.BytesIO(whole.content))
    assert (rate_hz, call_sid.startswith("chat-")) == (24_000, True)
    assert outline["seconds"] == pytest.approx(len(sound) / rate_hz, abs=1e-3)
    assert all(kept_s >= before_s for kept_s, before_s in zip(audible_s(whole.content), written_s, strict=True))
    for side in (0, 1):
        loud = np.flatnonzero(np.abs(sound[:, side]) > 0.1)
        spectrum = np.abs(np.fft.rfft(sound[loud.max() - 24_000 : loud.max(), side]))
        assert np.argmax(spectrum) / len(spectrum) * 12_000 == pytest.approx(6_000, abs=2.0)
