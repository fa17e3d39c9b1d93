"""`python -m tests.kyutai PYTHON`: two of Kyutai's PyTorch servers; `talk` to each, and phone calls through both.

PYTHON runs where PyTorch below 2.10 and `moshi` 0.2.13 are installed (what it needs: aiohttp, einops, huggingface-hub
below 1, safetensors, sentencepiece, sphn, tqdm). The weights are random, the CPU computes less than a frame in 80 ms,
so gaps say nothing.
"""

import asyncio
import sys
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import soundfile

from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, free_port, start_service
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from tests.app.cli.talk.test_kyutai_server import running
from tests.app.cli.talk.test_run import talk
from tests.app.cli.talk.tones import tone
from workers.checkpoints.files import CONFIG, MIMI, TOKENIZER
from workers.checkpoints.synthetic import make_synthetic

SCRIPT = str(Path(__file__).with_name("pytorch.py"))


async def make(python: str, folder: Path) -> list[str]:
    ours = make_synthetic("random:tiny:f32", folder)
    files = (str(folder), str(ours / CONFIG), str(ours / MIMI))
    process = await asyncio.create_subprocess_exec(python, SCRIPT, "make", *files)
    if await process.wait():
        sys.exit(1)
    weights = ("--moshi-weight", str(folder / "moshi.safetensors"), "--mimi-weight", str(folder / "mimi.safetensors"))
    return [*weights, "--tokenizer", str(ours / TOKENIZER), "--config-path", str(folder / CONFIG)]


def server(python: str, options: list[str], port: int) -> AbstractAsyncContextManager[None]:
    command = (python, SCRIPT, "serve", *options, "--device", "cpu", "--static", "none", "--port", str(port))
    return running(command, b"Running on")


async def main(python: str, folder: Path) -> None:
    options, ports = await make(python, folder), (free_port(), free_port())
    soundfile.write(folder / "in.wav", tone(1.0), 24_000)
    async with server(python, options, ports[0]), server(python, options, ports[1]):
        for _ in range(2):
            urls = [f"ws://localhost:{port}" for port in ports]
            talks = (talk(folder, "--url", url, "--wav", "in.wav", "--seconds", "10") for url in urls)
            for ended in await asyncio.gather(*talks):
                print(ended.status, ended.out, ended.error)
        remote = {"ENGINE": "remote", "MOSHI_SERVERS": f"ws://localhost:{ports[0]},ws://localhost:{ports[1]}"}
        async with start_service(remote, folder / "log") as service:
            calls = CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, duration_s=10.0)
            for report in await asyncio.gather(simulate(calls), simulate(calls)):
                record = await service.record(report.call_sid)
                print(report.outcome, record["end"], record["detail"], record["first_sound_s"], record["transcript"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(main(sys.argv[1], Path(made)))
