import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.http.history_routes import MAX_BUCKETS, build_recording_router
from app.http.operator_auth import OperatorAuth
from app.http.rate_limit import RateLimiter
from app.telemetry.recording.audio_files import RecordingFile, encode_flac, wav_header
from app.telemetry.recording.timeline import Channel, Piece

SID = "CA" + "a" * 32
NAME = f"20260102T120000Z-{SID}.wav"
LOUD = bytes([0x10])


@contextlib.asynccontextmanager
async def asking(folder: Path | None) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(build_recording_router(folder, OperatorAuth("", RateLimiter(100))))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        yield http


def file_of(folder: Path, name: str = NAME, samples: int = 16_000) -> RecordingFile:
    file = RecordingFile(folder / name)
    file.write([Piece(Channel.MOSHI, 0, LOUD * samples)])
    return file


async def test_a_browser_may_ask_for_any_part_of_a_finished_recording(tmp_path: Path) -> None:
    file_of(tmp_path).close()
    flac = encode_flac(tmp_path / NAME)
    assert flac
    content = flac.read_bytes()
    async with asking(tmp_path) as http:
        whole = await http.get(f"/api/calls/{SID}/recording")
        assert (whole.status_code, whole.headers["content-type"], whole.content) == (200, "audio/flac", content)
        part = await http.get(f"/api/calls/{SID}/recording", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, content[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
        waveform = (await http.get(f"/api/calls/{SID}/waveform?buckets=4")).json()
    assert (waveform["call_sid"], waveform["live"], waveform["seconds"]) == (SID, False, 2.0)
    assert waveform["caller"] == {"min": [0.0] * 4, "max": [0.0] * 4}
    assert waveform["moshi"]["min"] == waveform["moshi"]["max"]


async def test_of_a_call_that_is_on_there_is_as_much_as_was_written(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    async with asking(tmp_path) as http:
        sound = await http.get(f"/api/calls/{SID}/recording")
        assert (await http.get(f"/api/calls/{SID}/waveform")).json()["live"] is True
    file.close()
    assert (sound.status_code, sound.headers["content-type"]) == (200, "audio/wav")
    assert sound.content == wav_header(16_000) + bytes([0xFF, 0x10]) * 16_000


async def test_a_call_that_came_back_has_a_recording_of_each_stream(tmp_path: Path) -> None:
    file_of(tmp_path).close()
    later = f"20260102T120001Z-{SID}"
    file_of(tmp_path, f"{later}.wav", 8_000).close()
    seconds = {"": 1.0, later: 1.0, NAME.removesuffix(".wav"): 2.0}
    async with asking(tmp_path) as http:
        for name, length_s in seconds.items():
            waveform = await http.get(f"/api/calls/{SID}/waveform", params={"name": name})
            sound = await http.get(f"/api/calls/{SID}/recording", params={"name": name})
            assert waveform.json()["seconds"] == length_s
            assert len(sound.content) == len(wav_header(0)) + 2 * length_s * 8_000
        assert (await http.get(f"/api/calls/{SID}/recording?name=other")).status_code == 404


@pytest.mark.parametrize("sid", ["CA", "..", "%2e%2e%2fsecret", "..%2f..%2fetc%2fpasswd", "*", "%00", SID[:-1], NAME])
async def test_what_is_no_sid_of_a_recorded_call_finds_nothing(tmp_path: Path, sid: str) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    file_of(folder).close()
    (tmp_path / "secret.flac").write_text("secret")
    for where in (folder, None):
        async with asking(where) as http:
            for route in ("recording", "waveform"):
                assert (await http.get(f"/api/calls/{sid}/{route}")).status_code == 404


async def test_a_waveform_that_nobody_can_draw_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"cut short")
    async with asking(tmp_path) as http:
        for buckets in ("0", "-1", str(MAX_BUCKETS + 1), "many", ""):
            assert (await http.get(f"/api/calls/{SID}/waveform?buckets={buckets}")).status_code == 422
        assert (await http.get(f"/api/calls/{SID}/waveform")).status_code == 404, "it cannot be read"
