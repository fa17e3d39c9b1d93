"""The whole service with a collector of traces."""

import asyncio
from pathlib import Path

import httpx

from app.twilio.events import DtmfPressed, Stopped
from tests.app.telemetry.trace_collector import collecting, values
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import Phone, closing_code
from tests.service.test_serve import GOOD, free_port, serve


async def test_a_call_is_one_span_with_its_events(tmp_path: Path) -> None:
    port = str(free_port())
    with collecting() as collector:
        settings = {**GOOD, "PORT": port, "TRACES_ENDPOINT": collector.url, "TRACES_HEADERS": "X-Key=a-key-for-traces"}
        settings["OTEL_BSP_SCHEDULE_DELAY"] = "10"  # ms between two exports
        async with (
            serve(tmp_path, **settings) as program,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            await program.until("ready for calls")
            async with Phone(int(port), http).call() as call:
                await call.speaks(5)
                await call.socket.send(call.carrier.send(DtmfPressed("7")))
                await call.speaks(1)
                await call.socket.send(call.carrier.send(Stopped()))
                assert await closing_code(call.socket) == 1000
            span = await asyncio.to_thread(collector.spans.get, timeout=PATIENCE_S)
            program.process.terminate()
            _, words = await program.end()
    assert [event.name for event in span.events] == [
        *("reserved", "socket opened", "stream started", "first sound", "key pressed", "ended"),
    ]
    told = values(span.attributes)
    assert (told["call.sid"], told["call.end.reason"]) == (call.call_sid, "caller hung up")
    assert (told["call.from"], told["call.to"]) == ("…0001", "…0000")
    assert told["call.counts.packets_in"] == 24
    assert "5550100001" not in str(span)
    assert collector.headers["x-key"] == "a-key-for-traces"
    assert "a-key-for-traces" not in words
    assert "Traceback" not in words
