"""Kyutai's own client, as it is, against our service with the synthetic speaker: two at once for a minute."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soxr

from app.audio.mulaw import SAMPLE_RATE_HZ as PHONE_RATE_HZ
from app.cli.service_process import start_service
from app.simulator.conversation import conversation, recording
from app.simulator.measure import mouth_to_ear_ms
from app.simulator.wav import Samples
from tests.kyutai.headless import Heard, install_client, run_client
from tests.scale import scaled
from tests.synthetic import synthetic_cache
from workers.checkpoints.synthetic.phrases import phrases
from workers.messages import SAMPLE_RATE_HZ, Pcm

WINDOW_S = 0.25
"""Shorter than what lies between the gaps of a busy machine, whose client plays a block of 80 ms late now and then."""
AFTER_REPLY_S = scaled(45, least=5)
SPARE_S = 3
"""The caller begins so much later than in the demo: one who speaks into a greeting that a stall delays cuts it off."""
SPOKEN = (soxr.resample(conversation(), PHONE_RATE_HZ, SAMPLE_RATE_HZ) / 32_768).astype(np.float32)
SAID = np.pad(SPOKEN, (SPARE_S * SAMPLE_RATE_HZ, 0))


def phone(pcm: Pcm) -> Samples:
    samples: Pcm = soxr.resample(pcm, SAMPLE_RATE_HZ, PHONE_RATE_HZ)
    return np.rint(samples * 32_768).clip(-32_768, 32_767).astype(np.int16)


def hears(heard: Heard, said: Samples) -> bool:
    """Tell whether two fifths of the windows of a phrase are in what was heard; of one not said a sixth are."""
    sound = phone(heard.pcm)
    found = mouth_to_ear_ms(said, sound, WINDOW_S, max_latency_s=len(sound) / PHONE_RATE_HZ, min_match=0.8).windows
    return len(found) * WINDOW_S > len(said) / PHONE_RATE_HZ * 0.4


@pytest.mark.slow
async def test_two_of_kyutais_clients_hear_the_greeting_and_the_replies(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await install_client(tmp_path)
    greeting, reply, *_ = phrases()
    cache = str(synthetic_cache(tmp_path_factory))
    environment = {"MOSHI_CHECKPOINT": "synthetic:script", "CACHE_DIR": cache, "MAX_CALLS": "2"}
    async with start_service(environment, tmp_path / "log") as service:
        port = urlsplit(service.base_url).port or 0
        clients = (
            run_client(tmp_path, tmp_path / name, port, SAID, reply.text.encode(), AFTER_REPLY_S)
            for name in ("one", "two")
        )
        both = await asyncio.gather(*clients)
    for heard in both:
        print(f"{heard.gaps(1.0)} of {len(heard.empty)} blocks were empty after the first second")
        assert greeting.text in heard.text
        assert reply.text in heard.text
        assert hears(heard, phone(greeting.pcm))
        assert hears(heard, phone(reply.pcm))
        assert not hears(heard, recording("question1")), "which is what the caller said"
