"""Recordings of a real service: real processes, real time, real kills."""

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy.signal import correlate
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.simulator.call import simulate
from app.simulator.conversation import talk
from app.simulator.options import CallOptions
from app.simulator.report import CallReport
from app.simulator.trouble import STEADY, Scenario, Window
from app.telemetry.call_log.entry import KILLED
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, TOKEN
from tests.service.test_call_log import HUNG_UP, until_kept
from tests.service.test_serve import Program, command, serving

RATE_HZ = 8_000
WITHIN_MS = 5.0
AUDIBLE = 500
CHAT_PAGES = 100

Samples = NDArray[np.int16]

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def recording(folder: Path, **changes: str) -> AsyncIterator[tuple[Program, httpx.AsyncClient, str]]:
    """Run a line test that records all calls; yield it, a client of it and its address."""
    settings = {"PUBLIC_URL": "", "DATABASE_URL": f"sqlite:///{folder}/calls.db"}
    settings |= {"RECORDINGS_DIR": str(folder / "recordings"), **changes}
    async with serving(folder, **settings) as (program, phone):
        yield program, phone.http, f"http://127.0.0.1:{phone.port}"


async def call(url: str, seconds: float, line: Scenario = STEADY) -> CallReport:
    """Place a call whose caller speaks all the time."""
    audio = np.resize(talk(), round(seconds * RATE_HZ))
    return await simulate(CallOptions(url, TOKEN, ACCOUNT, audio=audio, line=line))


async def shown(folder: Path, call_sid: str, *options: str) -> str:
    """Return what `calls show` prints."""
    url = f"sqlite:///{folder}/calls.db"
    status, words, errors = await command(folder, "calls", "show", call_sid, *options, DATABASE_URL=url)
    assert status == 0, errors
    return words


def behind_ms(recording: Samples, truth: Samples) -> float:
    """Return by how much a recording is behind what it should be: the median over its audible seconds."""
    found = []
    for begin in range(RATE_HZ, min(len(recording), len(truth)) - 2 * RATE_HZ, RATE_HZ):
        window = truth[begin : begin + RATE_HZ].astype(float)
        around = recording[begin - 800 : begin + RATE_HZ + 800].astype(float)
        if np.abs(window).max() > AUDIBLE:
            difference = np.convolve(around**2, np.ones(RATE_HZ), "valid") - 2 * correlate(around, window, "valid")
            found.append((int(np.argmin(difference)) - 800) / 8)
    assert found
    return float(np.median(found))


async def until_recorded(http: httpx.AsyncClient) -> str:
    """Return the SID of the call that is on, once something can be seen of it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for call in (await http.get("/api/calls")).json():
                waveform = await http.get(f"/api/calls/{call['call_sid']}/waveform?buckets=10")
                if (
                    waveform.status_code == 200
                    and waveform.json()["live"]
                    and max(waveform.json()["caller"]["max"]) > 0.1
                ):
                    return str(call["call_sid"])
            await asyncio.sleep(0.05)


async def until_finished(http: httpx.AsyncClient, call_sid: str) -> httpx.Response:
    """Return a recording once it is finished."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            sound = await http.get(f"/api/calls/{call_sid}/recording")
            if sound.headers["content-type"] == "audio/flac":
                return sound
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("line", [STEADY, Scenario(stalls=(Window(3, 0.6),))], ids=["steady", "stalled"])
async def test_a_recording_is_what_the_simulator_says_was_spoken_and_heard(
    tmp_path: Path, line: Scenario, record_property: Callable[[str, object], None]
) -> None:
    async with recording(tmp_path) as (program, http, url):
        report = await call(url, 8.0, line)
        await program.until(f'"call_sid": "{report.call_sid}", "message": "recorded in')
        whole = await http.get(f"/api/calls/{report.call_sid}/recording")
        part = await http.get(f"/api/calls/{report.call_sid}/recording", headers={"Range": "bytes=4-41"})
        outline = (await http.get(f"/api/calls/{report.call_sid}/waveform?buckets=20")).json()
    assert (part.status_code, part.content) == (206, whole.content[4:42])
    sound, rate_hz = soundfile.read(io.BytesIO(whole.content), dtype="int16")
    assert rate_hz == RATE_HZ
    assert len(sound) / RATE_HZ == pytest.approx(report.ended_s, abs=0.1)
    assert outline["seconds"] == pytest.approx(len(sound) / RATE_HZ, abs=1e-3)
    assert max(outline["caller"]["max"]) == pytest.approx(sound[:, 0].max() / 32_768, abs=1e-4)
    assert min(outline["moshi"]["min"]) == pytest.approx(sound[:, 1].min() / 32_768, abs=1e-4)
    caller_ms, moshi_ms = behind_ms(sound[:, 0], report.said), behind_ms(sound[:, 1], report.heard)
    record_property("milliseconds behind, caller and Moshi", (caller_ms, moshi_ms))
    assert abs(caller_ms - moshi_ms) <= WITHIN_MS


async def test_a_call_that_is_on_can_be_heard_and_is_recorded_up_to_the_second_before_a_kill(tmp_path: Path) -> None:
    async with recording(tmp_path) as (program, http, url):
        calling = asyncio.create_task(call(url, 60.0))
        now = await http.get(f"/api/calls/{await until_recorded(http)}/recording")
        assert now.headers["content-type"] == "audio/wav"
        assert np.abs(soundfile.read(io.BytesIO(now.content), dtype="int16")[0]).max() > AUDIBLE
        await asyncio.sleep(2.0)  # the length of the call, not a wait for anything
        os.kill(program.process.pid, signal.SIGKILL)
        report = await calling
        await program.end()
    async with recording(tmp_path) as (_, http, _):
        whole = await until_finished(http, report.call_sid)
    sound, _ = soundfile.read(io.BytesIO(whole.content), dtype="int16")
    assert report.ended_s > 2.0
    assert len(sound) / RATE_HZ > report.ended_s - 1.0
    for side in (0, 1):
        assert np.flatnonzero(np.abs(sound[:, side]) > AUDIBLE).max() / RATE_HZ > report.ended_s - 1.5
    kept = json.loads(await shown(tmp_path, report.call_sid, "--json"))
    assert kept["end_reason"] == KILLED
    assert kept["recording"].endswith(report.call_sid)


async def test_a_chat_is_recorded_at_24_khz_up_to_the_second_before_a_kill(tmp_path: Path) -> None:
    """The client speaks a tone of 6 kHz, which no phone has, and hears itself."""
    tone = (10_000 * np.sin(np.arange(960) * np.pi / 2)).astype("<i2").tobytes()
    pages = 0
    async with recording(tmp_path) as (program, http, url):
        async with connect(f"{url.replace('http', 'ws')}/api/chat?format=pcm", compression=None, proxy=None) as socket:
            with contextlib.suppress(ConnectionClosed):
                async for message in socket:
                    await socket.send(b"\1" + tone)
                    pages += message[0] == 1
                    if pages == CHAT_PAGES // 2:
                        call_sid = await until_recorded(http)
                    if pages == CHAT_PAGES:
                        os.kill(program.process.pid, signal.SIGKILL)
        await program.end()
    async with recording(tmp_path) as (_, http, _):
        whole = await until_finished(http, call_sid)
        outline = (await http.get(f"/api/calls/{call_sid}/waveform?buckets=10")).json()
    sound, rate_hz = soundfile.read(io.BytesIO(whole.content))
    assert (rate_hz, call_sid.startswith("chat-")) == (24_000, True)
    assert outline["seconds"] == pytest.approx(len(sound) / rate_hz, abs=1e-3)
    for side in (0, 1):
        loud = np.flatnonzero(np.abs(sound[:, side]) > 0.1)
        assert loud.max() / rate_hz > pages * 0.04 - 1.0
        spectrum = np.abs(np.fft.rfft(sound[loud.max() - 24_000 : loud.max(), side]))
        assert np.argmax(spectrum) / len(spectrum) * 12_000 == pytest.approx(6_000, abs=2.0)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of so many bytes; skips where none can be made."""
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_ends_the_recording_but_not_the_call_and_the_record_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k") as folder:
        async with recording(tmp_path, RECORDINGS_DIR=str(folder / "recordings")) as (program, _, url):
            report = await call(url, 8.0)
            await program.until("broken off: No space left on device")
            await until_kept(tmp_path, f"sqlite:///{tmp_path}/calls.db", {report.call_sid: HUNG_UP})
        sound, _ = soundfile.read(next((folder / "recordings").iterdir()))
    assert report.outcome == "caller-hung-up"
    assert report.ended_s == pytest.approx(8.0, abs=0.5)
    assert np.abs(report.heard[-RATE_HZ:]).max() > AUDIBLE, "Moshi was heard to the end"
    assert 2.0 < len(sound) / RATE_HZ < 4.5
    assert "broken off: No space left on device" in await shown(tmp_path, report.call_sid)
