"""The twelve points of a full-duplex call to `synthetic:script`: real workers, the real session in virtual time."""

import asyncio
import json

import pytest

from app.audio import mulaw
from app.calls.record_json import as_json
from app.cli.demo.checklist import Point, check_call
from app.cli.demo.expectation import expect
from app.cli.demo.run import GREETING
from app.config import CodecKind
from app.simulator.conversation import CONVERSATION, FOLDER, LENGTH_S, conversation
from app.simulator.report import CallReport, Outcome, StreamReport
from app.simulator.stream import StreamCounts
from app.simulator.trouble import Scenario
from app.simulator.virtual import VirtualReport, run_virtual
from tests.processes.real_workers import real_workers
from tests.synthetic import synthetic_cache
from workers.messages import FRAME_S, Epoch, Heard, Slot, TranscriptEnd, TranscriptMessage, TurnOver

GREETING_FRAMES = 25


async def _call(
    cache_base: pytest.TempPathFactory, seconds: float, greeting: str, transcribe: str = "off"
) -> tuple[VirtualReport, list[TranscriptMessage]]:
    said = mulaw.encode(conversation())[: round(seconds * mulaw.SAMPLE_RATE_HZ)]
    line = Scenario(seconds=seconds, travel_s=0.0, step_s=0.04)
    cache = synthetic_cache(cache_base)
    model = "synthetic:script", CodecKind.NUMPY, cache, GREETING_FRAMES
    async with real_workers(*model, transcribe=transcribe) as workers:
        frames = await workers.open(GREETING_FRAMES, greeting)
        report = await asyncio.to_thread(run_virtual, line, said, workers, frames)
        return report, await workers.transcript() if transcribe != "off" else []


def _points(call: VirtualReport) -> list[Point]:
    heard, said = mulaw.decode(call.sound), mulaw.decode(mulaw.encode(conversation()))
    stream = StreamReport("ws://virtual", "MZvirtual", 0.0, LENGTH_S, StreamCounts())
    report = CallReport(
        call.record.call_sid,
        Outcome.CALLER_HUNG_UP,
        "the caller hung up",
        None,
        LENGTH_S,
        said[: len(heard)],
        heard,
        streams=(stream,),
        underruns=tuple(call.underruns),
    )
    record = as_json(call.record) | {"end": "caller hung up"}
    return check_call(report, record, expect(report.said, record, GREETING))


@pytest.mark.parametrize("greeting", ["", GREETING])
async def test_the_greeting_has_its_words(tmp_path_factory: pytest.TempPathFactory, greeting: str) -> None:
    call, _ = await _call(tmp_path_factory, 4.0, greeting)
    record = as_json(call.record)
    expected = expect(mulaw.decode(mulaw.encode(conversation()))[: 4 * mulaw.SAMPLE_RATE_HZ], record, greeting)
    words = str(record["transcript"]).split()
    assert len(words) > 5
    assert words == expected.transcript.split()[: len(words)]
    assert not call.underruns


def _check_words(heard: list[TranscriptMessage], stream_start_s: float) -> None:
    """Check that the caller's words are those of the recordings, at their times in the conversation."""
    spoken = [message for message in heard if isinstance(message, Heard)]
    said = [
        (word, CONVERSATION[entry["name"]] + onset_ms / 1000)
        for entry in json.loads((FOLDER / "caller.json").read_text())
        for word, onset_ms in zip(entry["text"].split(), entry["onsets_ms"], strict=True)
    ]
    assert heard[-1] == TranscriptEnd(Slot(0), Epoch(1), missed=0)
    assert [message.word for message in spoken] == [word for word, _ in said]
    starts_s = [message.start_s - stream_start_s for message in spoken]
    assert starts_s == pytest.approx([start_s for _, start_s in said], abs=3 * FRAME_S)
    assert sum(isinstance(message, TurnOver) for message in heard) == len(CONVERSATION)


@pytest.mark.slow
async def test_all_twelve_points(tmp_path_factory: pytest.TempPathFactory) -> None:
    call, heard = await _call(tmp_path_factory, LENGTH_S, GREETING, "synthetic:stt")
    _check_words(heard, GREETING_FRAMES * FRAME_S - call.record.takeover_s)
    points = _points(call)
    assert len(points) == 12
    assert [f"{point.title}: {point.detail}" for point in points if not point.passed] == []

    second = len(call.sound) // 3  # a fault is seen: a second twice, and a word missing
    call.sound = call.sound[:second] + call.sound[second - 8_000 :][: len(call.sound) - second]
    call.record.words.pop()
    failed = {point.title for point in _points(call) if not point.passed}
    assert "the replies are Moshi's, word for word" in failed
    assert "the transcript has the words, in order, once" in failed
