"""Two chats at once with the synthetic speaker: words, sound, call log, recording."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import sphn
from websockets.asyncio.client import connect

from app.cli.service_process import ServiceProcess, start_service
from tests.processes.pipeline import PATIENCE_S
from tests.service.test_call_log import HUNG_UP, kept
from tests.synthetic import synthetic_cache
from workers.messages import Pcm

GREETING = "Hello! I'm Ada from Northside Dental, how can I help you?"
MESSAGES = 140
"""Eight seconds: 40 ms each in the greeting, then 80 ms."""


@dataclass
class Chat:
    """What one client hears."""

    metadata: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    audio: list[bytes] = field(default_factory=list)


async def chat(service: ServiceProcess, query: str) -> Chat:
    """Listen to some messages, as a client that sends nothing."""
    heard = Chat()
    url = service.base_url.replace("http:", "ws:") + f"/api/chat?{query}"
    async with asyncio.timeout(PATIENCE_S), connect(url, compression=None, proxy=None) as socket:
        assert await socket.recv() == b"\0"
        async for message in socket:
            assert isinstance(message, bytes)
            match message[0]:
                case 4:
                    heard.metadata = json.loads(message[1:])
                case 2:
                    heard.text += message[1:].decode()
                case 1:
                    heard.audio.append(message[1:])
            if len(heard.audio) == MESSAGES:
                break
    return heard


def loud_s(pcm: Pcm) -> float:
    """How many seconds of it are above -40 dBFS."""
    windows = pcm[: len(pcm) // 480 * 480].reshape(-1, 480)
    return float(np.sum(np.sqrt(np.mean(windows**2, axis=1)) > 0.01)) * 0.02


@pytest.mark.slow
async def test_two_chats_hear_the_greeting_and_are_logged_and_recorded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "ada.toml").write_text(f'greeting = "{GREETING}"')
    environment = {
        "MOSHI_CHECKPOINT": "synthetic:script",
        "CACHE_DIR": str(synthetic_cache(tmp_path_factory)),
        "MAX_CALLS": "2",
        "PERSONAS_DIR": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{tmp_path}/calls.db",
        "RECORDINGS_DIR": str(tmp_path / "recordings"),
        "RECORD_CALLS": "all",
    }
    async with start_service(environment, tmp_path / "log") as service:
        opus, pcm = await asyncio.gather(chat(service, "persona=ada"), chat(service, "persona=ada&format=pcm"))
        records = [await service.record(str(one.metadata["call_sid"])) for one in (opus, pcm)]
    logged = await kept(tmp_path, environment["DATABASE_URL"])
    assert logged == {str(record["call_sid"]): HUNG_UP for record in records}
    reader = sphn.OpusStreamReader(24_000)
    sounds = (
        np.concatenate([reader.append_bytes(one) for one in opus.audio]),
        np.frombuffer(b"".join(pcm.audio), "<i2").astype(np.float32) * np.float32(1 / 32_768),
    )
    for one, record, sound in zip((opus, pcm), records, sounds, strict=True):
        assert one.text.strip().startswith(GREETING)
        assert one.text.strip() in record["transcript"]
        assert (one.metadata["persona"], one.metadata["recorded"]) == ("ada", True)
        assert one.metadata["lm_model_file"] == "synthetic:script"
        assert one.metadata["text_temperature"] == one.metadata["audio_temperature"] == 0, "config.json of the script"
        assert loud_s(sound) > 2.0
        (file,) = (tmp_path / "recordings").glob(f"*-{record['call_sid']}.flac")
        recorded, rate_hz = soundfile.read(file)
        assert rate_hz == 24_000
        assert len(recorded) > len(sound) - 2.0 * rate_hz, "on a slow machine it has gaps that a client does not hear"
        assert loud_s(recorded[:, 1].astype(np.float32)) > 1.0
