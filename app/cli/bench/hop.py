"""`moshi-bridge bench hop`: what a Moshi server elsewhere adds, measured with a line test of ours as the server."""

from functools import partial
from pathlib import Path

from app.cli.bench.calls import Load, speech
from app.cli.bench.line import MeasuredCalls, measure_calls, run_bench
from app.cli.service_process import LOOPBACK, start_service


def bench_hop(seconds: float, json_path: Path | None) -> int:
    """Place a call to a line test, and calls to services whose Moshi it is; return the exit status."""
    measure = partial(_measure, Load(speech(seconds)))
    return run_bench("One simulated call: direct, and through a Moshi server", measure, LOOPBACK, json_path)


async def _measure(load: Load, folder: Path) -> dict[str, MeasuredCalls]:
    async with start_service(LOOPBACK, folder / "elsewhere.log") as elsewhere:
        calls = {"direct": await measure_calls(elsewhere, load, echoes=True)}
        for name, query in {"Opus": "", "PCM": "?format=pcm"}.items():
            remote = {"ENGINE": "remote", "MOSHI_SERVERS": elsewhere.base_url + query}
            async with start_service(remote, folder / "service.log") as service:
                calls[name] = await measure_calls(service, load, echoes=True)
    return calls
