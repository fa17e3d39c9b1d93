"""The twelve points of a full-duplex call to the script stand-in: real workers, the real session in virtual time."""

import asyncio

import pytest

from app.audio import mulaw
from app.cli.demo.checklist import Point, check_call
from app.cli.demo.expectation import expect
from app.config import CodecKind
from app.simulator.conversation import LENGTH_S, conversation
from app.simulator.report import CallReport, Outcome, StreamReport
from app.simulator.stream import StreamCounts
from app.simulator.trouble import Scenario
from app.simulator.virtual import VirtualReport, run_virtual
from tests.processes.real_workers import real_workers

GREETING_FRAMES = 25
LINE = Scenario(seconds=LENGTH_S, travel_s=0.0, step_s=0.04)


async def _call(cache_base: pytest.TempPathFactory) -> VirtualReport:
    cache = cache_base.getbasetemp() / "script"
    said = mulaw.encode(conversation())
    async with real_workers("synthetic:script", CodecKind.NUMPY, cache, GREETING_FRAMES) as workers:
        greeting = await workers.open(GREETING_FRAMES)
        return await asyncio.to_thread(run_virtual, LINE, said, workers, greeting)


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
    record = call.record.as_json() | {"end": "caller hung up"}
    return check_call(report, record, expect(report.said, record))


async def test_all_twelve_points(tmp_path_factory: pytest.TempPathFactory) -> None:
    points = _points(await _call(tmp_path_factory))
    assert len(points) == 12
    assert [f"{point.title}: {point.detail}" for point in points if not point.passed] == []


async def test_a_checklist_that_sees_a_fault(tmp_path_factory: pytest.TempPathFactory) -> None:
    call = await _call(tmp_path_factory)
    second = len(call.sound) // 3
    call.sound = call.sound[:second] + call.sound[second - 8_000 :][: len(call.sound) - second]
    call.record.text.pop()
    failed = {point.title for point in _points(call) if not point.passed}
    assert "the replies are Moshi's, word for word" in failed
    assert "the transcript has the words, in order, once" in failed
