"""A call to the parrot through the real workers, recorded, made again from its tokens, and held against rustymimi."""

import asyncio
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from app.calls.end_reason import EndReason
from app.calls.record import CallRecord
from app.calls.session import CallSession, End
from app.cli.main import cli
from app.config import CodecKind
from app.simulator.trouble import Scenario
from app.simulator.virtual import run_virtual
from app.telemetry.recording.recorder import CallRecorder
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.tokens import read_tokens
from app.telemetry.recording.writer import RecordingWriter
from tests.processes.real_workers import real_workers
from tests.processes.test_parrot_call import caller_audio, codes_of, frames, pcm_of
from tests.synthetic import synthetic_cache
from workers.checkpoints.synthetic import make_synthetic
from workers.messages import Slot

SECONDS = 2
ROUNDING = 1e-3
"""16 bits, and what two implementations of Mimi differ by."""


async def record_call(folder: Path, cache: Path, said: bytes) -> CallRecord:
    """Place a call to the parrot in virtual time and record it."""
    writer = RecordingWriter(RecordingStore(folder), "synthetic:parrot", every_call=True)
    writer.start()
    recorders: list[CallRecorder] = []

    def record(session: CallSession) -> CallRecorder:
        recorder = writer.record(session, False, Slot(0))
        assert recorder
        recorders.append(recorder)
        return recorder

    async with real_workers("synthetic:parrot", CodecKind.NUMPY, cache) as workers:
        await workers.open()
        scenario = Scenario(seconds=SECONDS, travel_s=0.0)
        report = await asyncio.to_thread(partial(run_virtual, scenario, said, workers, observe=record))
    recorders[0].on_end(End(EndReason.CALLER_HUNG_UP), float(SECONDS))
    await writer.stop()
    return report.record


@pytest.mark.slow
async def test_a_call_is_made_again_from_its_tokens(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "recordings", synthetic_cache(tmp_path_factory)
    said = caller_audio(SECONDS)
    record = await record_call(folder, cache, said)
    mimi = next(make_synthetic("parrot", cache).glob("tokenizer*.safetensors"))
    heard = codes_of(mimi, frames(said))
    _, tokens = read_tokens(folder / f"{record.recording.name}.tokens")
    steps = len(tokens)
    assert steps >= SECONDS * 12
    assert np.array_equal(tokens[:, 9:], heard[0, :, :steps].T), "the caller's codes, as rustymimi makes them"

    monkeypatch.setenv("RECORDINGS_DIR", str(folder))
    monkeypatch.setenv("CACHE_DIR", str(cache))
    made = await asyncio.to_thread(CliRunner().invoke, cli, ["render", "virtual", "-o", str(tmp_path / "call.flac")])
    assert made.exit_code == 0, made.output
    sound, rate_hz = soundfile.read(tmp_path / "call.flac", dtype="float32")
    assert (rate_hz, sound.shape) == (24_000, (steps * 1_920, 2))
    caller = np.concatenate(pcm_of(mimi, heard[..., :steps]))
    assert np.abs(sound[:, 0] - caller).max() < ROUNDING
    spoken = np.concatenate([np.zeros((1, 8, 1), np.uint32), heard[..., 1 : steps - 1]], axis=2)
    moshi = np.concatenate([np.zeros(1_920, np.float32), *pcm_of(mimi, spoken)])
    assert np.abs(sound[:, 1] - moshi).max() < ROUNDING
    assert np.abs(caller).max() > 0.1


def test_without_a_recording_there_is_nothing_to_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = CliRunner().invoke(cli, ["render", "CA1"])
    assert (asked.exit_code, "RECORDINGS_DIR is not set" in asked.stderr) == (1, True)
    monkeypatch.setenv("RECORDINGS_DIR", str(tmp_path))
    asked = CliRunner().invoke(cli, ["render", "CA1"])
    assert (asked.exit_code, "no token log" in asked.stderr) == (1, True)


def logs(folder: Path, *names: str, checkpoint: str = "synthetic:parrot") -> None:
    """Put token logs of one step into a folder."""
    header = f'{{"call_sid": "CA1", "checkpoint": "{checkpoint}", "began": "", "greeting_frames": 0}}\n'
    for name in names:
        (folder / f"{name}.tokens").write_bytes(header.encode() + bytes(34))


def test_of_two_calls_that_end_alike_a_path_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECORDINGS_DIR", str(tmp_path))
    logs(tmp_path, "20260102T120000Z-CA91", "20260102T120000Z-CA81")
    asked = CliRunner().invoke(cli, ["render", "1"])
    assert asked.exit_code == 1
    assert "CA81" in asked.stderr
    assert "CA91" in asked.stderr


@pytest.mark.parametrize(
    ("option", "named"),
    [(["-o", "call.mp3"], "call.mp3"), (["-o", "/nowhere/at/all.wav"], "/nowhere/at/all.wav")],
    ids=["format", "folder"],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, option: list[str], named: str) -> None:
    logs(tmp_path, "a")
    asked = CliRunner().invoke(cli, ["render", str(tmp_path / "a.tokens"), *option])
    assert asked.exit_code in (1, 2)
    assert named in asked.stderr
    assert "Traceback" not in asked.stderr


@pytest.mark.parametrize("former", [None, b"of an earlier render"], ids=["new", "existing"])
def test_a_checkpoint_that_is_not_there_is_named_and_changes_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], former: bytes | None
) -> None:
    logs(tmp_path, "a", checkpoint=str(tmp_path / "gone"))
    made = tmp_path / "folder" / "made.wav"
    made.parent.mkdir()
    if former:
        made.write_bytes(former)
    asked = CliRunner().invoke(cli, ["render", str(tmp_path / "a.tokens"), "-o", str(made)])
    assert asked.exit_code == 1
    assert "gone" in capfd.readouterr().err
    assert [path.read_bytes() for path in made.parent.iterdir()] == ([former] if former else [])
