"""`moshi-bridge bench hop`: what a Moshi server elsewhere adds, measured with a line test of ours as the server."""

import platform
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console

from app.cli.bench.calls import Load, speech
from app.cli.bench.line import MeasuredCalls, calls_table, measure_calls
from app.cli.bench.output import write_json
from app.cli.options import EXIT_FAILED
from app.cli.service_process import LOOPBACK, ServiceFailed, start_service


def bench_hop(seconds: float, json_path: Path | None) -> int:
    """Place a call to a line test, and calls to services whose Moshi it is; return the exit status."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder, console.status("calling …"):
        try:
            calls = uvloop.run(_measure(Path(folder), Load(speech(seconds))))
        except ServiceFailed as error:
            console.print(f"[red]{error}[/]")
            return EXIT_FAILED
    console.print(calls_table("One simulated call: direct, and through a Moshi server", calls))
    figures = {name: one.as_json() for name, one in calls.items()}
    write_json(json_path, {"machine": platform.platform(), "calls": figures})
    return 0


async def _measure(folder: Path, load: Load) -> dict[str, MeasuredCalls]:
    async with start_service(LOOPBACK, folder / "elsewhere.log") as elsewhere:
        calls = {"direct": await measure_calls(elsewhere, load, echoes=True)}
        for name, query in {"Opus": "", "PCM": "?format=pcm"}.items():
            remote = {"ENGINE": "remote", "MOSHI_SERVERS": elsewhere.base_url + query}
            async with start_service(remote, folder / "service.log") as service:
                calls[name] = await measure_calls(service, load, echoes=True)
    return calls
