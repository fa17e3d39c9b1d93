"""One call to the real service with everything that watches it: all agree."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile
from prometheus_client.parser import text_string_to_metric_families

from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, ServiceProcess, start_service
from app.simulator.call import simulate
from app.simulator.conversation import conversation
from app.simulator.options import CallOptions
from app.simulator.report import Outcome
from app.twilio.events import RATE_HZ
from tests.app.telemetry.trace_collector import collecting, values
from tests.processes.pipeline import PATIENCE_S
from tests.synthetic import synthetic_cache

SECONDS = 8.0
LOOK_AGAIN_S = 0.1


async def until(question: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer."""
    async with asyncio.timeout(PATIENCE_S):
        while not (answer := await question()):  # noqa: ASYNC110 - another process is asked
            await asyncio.sleep(LOOK_AGAIN_S)
    return answer


def samples(page: str) -> dict[str, float]:
    """Read a page of metrics: values by name, and by the value of the last label where there is one."""
    return {
        " ".join([one.name, *one.labels.values()]): one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
    }


async def watch(client: aiohttp.ClientSession, seen: list[dict[str, Any]]) -> None:
    """Be a page that is open: keep what is seen of calls."""
    async with client.ws_connect("/api/live") as socket:
        async for message in socket:
            seen += json.loads(message.data)["calls"]


@pytest.mark.slow
async def test_page_record_transcript_recording_metrics_and_trace_agree(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with collecting() as collector:
        settings = {"TRACES_ENDPOINT": collector.url, "TRACES_HEADERS": "X-Key=a-key-for-traces"}
        settings |= {"CACHE_DIR": str(synthetic_cache(tmp_path_factory)), "OTEL_BSP_SCHEDULE_DELAY": "10"}
        call_sid = await run_story(tmp_path, settings)
        span = await asyncio.to_thread(collector.spans.get, timeout=PATIENCE_S)
        assert collector.headers["x-key"] == "a-key-for-traces"
    assert [event.name for event in span.events] == [
        *("reserved", "socket opened", "stream started", "first sound", "ended"),
    ]
    told = values(span.attributes)
    assert (told["call.sid"], told["call.end.reason"]) == (call_sid, "caller hung up")
    assert "a-key-for-traces" not in (tmp_path / "service.log").read_text()


async def run_story(tmp_path: Path, settings: dict[str, str]) -> str:
    environment = {
        **settings,
        "MOSHI_CHECKPOINT": "synthetic:script",
        "DATABASE_URL": f"sqlite:///{tmp_path}/calls.db",
        "RECORDINGS_DIR": str(tmp_path / "recordings"),
        "RECORD_CALLS": "all",
        "SEED": "1",
    }
    async with (
        start_service(environment, tmp_path / "service.log") as service,
        aiohttp.ClientSession(service.base_url) as http,
    ):
        seen: list[dict[str, Any]] = []
        watching = asyncio.create_task(watch(http, seen))
        said = conversation()[: round(SECONDS * RATE_HZ)]
        report = await simulate(CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, audio=said))
        assert report.outcome is Outcome.CALLER_HUNG_UP
        watching.cancel()
        await assert_agreement(service, http, report.call_sid, seen)
    return report.call_sid


async def assert_agreement(
    service: ServiceProcess, http: aiohttp.ClientSession, call_sid: str, seen: list[dict[str, Any]]
) -> None:
    async def ended() -> Any:
        async with http.get(f"/api/history/{call_sid}") as answer:
            kept = await answer.json() if answer.status == 200 else {}
        return kept if kept.get("ended_at") else None

    kept, record = await until(ended), await service.record(call_sid)
    assert record["transcript"]
    assert " ".join(word["text"] for word in kept["transcript"]) == record["transcript"]
    assert (kept["end_reason"], kept["ended_by"]) == (record["end"], "caller")
    assert kept["counters"] == record["counts"]

    assert {call["call_sid"] for call in seen} == {call_sid}
    transcripts = [call["transcript"] for call in seen]
    words = {one["first"] + at: word[1] for one in transcripts for at, word in enumerate(one["words"])}
    assert record["transcript"].startswith(" ".join(words[at] for at in sorted(words)))
    assert len(words) > len(record["words"]) / 2

    async with http.get("/metrics") as answer:
        told = samples(await answer.text())
    assert told["moshi_bridge_calls_ended_total caller_hung_up"] == 1
    assert told["moshi_bridge_mouth_to_ear_seconds_count"] > 0
    assert told["moshi_bridge_underruns_total"] == record["counts"].get("underruns", 0)

    async def recorded() -> Any:
        async with http.get(f"/api/calls/{call_sid}/waveform?buckets=100") as answer:
            outline = await answer.json()
        return outline if answer.status == 200 and not outline["live"] else None

    outline = await until(recorded)
    lasted_s = record["ended_s"] - record["started_s"]
    assert outline["seconds"] == pytest.approx(lasted_s, abs=0.2)
    async with http.get(f"/api/calls/{call_sid}/recording") as answer:
        sound = await answer.read()
    both = soundfile.read(io.BytesIO(sound))[0]
    assert both.shape[1] == 2
    assert np.abs(both).max(axis=0).min() > 0.05  # both are heard
