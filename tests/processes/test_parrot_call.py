"""A call to the parrot through the real workers, against the same call worked out offline with rustymimi.

The app's side of the call is the real session in virtual time, so that no clock and no load decides anything here;
codec and engine are the real processes.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rustymimi
from numpy.typing import NDArray

from app.audio import mulaw
from app.audio.jitter_buffer import JitterBuffer
from app.audio.resample import Decimator
from app.config import CodecKind
from app.simulator.conversation import talk
from app.simulator.trouble import Scenario
from app.simulator.virtual import run_virtual
from tests.processes.real_workers import real_workers
from tests.scale import scaled
from tests.synthetic import synthetic_cache
from workers.checkpoints.synthetic import make_synthetic
from workers.messages import FRAME_SAMPLES, Frame, Pcm

PACKET = 160
BLOCK = 20


def caller_audio(seconds: int) -> bytes:
    noise = np.random.default_rng(7).normal(0, 400, seconds * mulaw.SAMPLE_RATE_HZ)
    return mulaw.encode((np.resize(talk(), len(noise)) * 0.7 + noise).astype(np.int16))


def frames(said: bytes) -> list[Pcm]:
    inbound = JitterBuffer()
    inbound.start(0.0)
    packets = [said[start : start + PACKET] for start in range(0, len(said), PACKET)]
    return [pcm for n, packet in enumerate(packets) for pcm in inbound.push(20 * n, packet, (n + 1) * 0.02)]


def codes_of(mimi: Path, frames: list[Pcm]) -> NDArray[np.uint32]:
    """Return the codes of all frames, shape (1, 8, frames); many at a time give the same and cost a third."""
    tokenizer = rustymimi.Tokenizer(str(mimi), num_codebooks=8)
    blocks = [np.concatenate(frames[start : start + BLOCK]) for start in range(0, len(frames), BLOCK)]
    return np.concatenate([tokenizer.encode_step(block[None, None]) for block in blocks], axis=2)


def pcm_of(mimi: Path, codes: NDArray[np.uint32]) -> list[Pcm]:
    tokenizer = rustymimi.Tokenizer(str(mimi), num_codebooks=8)
    blocks = [np.ascontiguousarray(codes[..., start : start + BLOCK]) for start in range(0, codes.shape[2], BLOCK)]
    pcm = np.concatenate([tokenizer.decode_step(block)[0, 0] for block in blocks])
    return list(pcm.reshape(-1, FRAME_SAMPLES))


def _offline(mimi: Path, said: bytes) -> bytes:
    """Return the mu-law that the caller must hear.

    Step p yields the frame heard in step p - 1: step 0 nothing, step 1 eight zeros, for frame 0 is never read.
    """
    decimator = Decimator()
    heard = np.concatenate([np.zeros((1, 8, 1), np.uint32), codes_of(mimi, frames(said))[..., 1:-1]], axis=2)
    return b"".join(mulaw.encode(decimator.push_int16(frame)) for frame in pcm_of(mimi, heard))


def _call(workers: Callable[[Frame], Frame], said: bytes) -> bytes:
    seconds = len(said) / mulaw.SAMPLE_RATE_HZ
    report = run_virtual(Scenario(seconds=seconds, travel_s=0.0), said, workers)
    assert not report.underruns
    first = report.buffer_levels[0][0]
    return report.sound[round(first * mulaw.SAMPLE_RATE_HZ) :]


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "seconds"), [(CodecKind.NUMPY, scaled(60, 4)), (CodecKind.RUSTYMIMI, scaled(12, 4))])
async def test_every_frame_comes_back_as_the_codec_alone_would_give_it(
    codec: CodecKind, seconds: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = synthetic_cache(tmp_path_factory)
    mimi = next(make_synthetic("parrot", cache).glob("tokenizer*.safetensors"))
    said = caller_audio(seconds)
    async with real_workers("synthetic:parrot", codec, cache) as workers:
        calls = []
        for call in (said, said[: seconds // 3 * mulaw.SAMPLE_RATE_HZ]):
            await workers.open()
            calls.append(await asyncio.to_thread(_call, workers, call))
            workers.close()
    heard, again = calls
    _assert_same_sound(heard, _offline(mimi, said)[: len(heard)])
    _assert_same_sound(again, heard[: len(again)])
    assert len(heard) >= (seconds - 1) * mulaw.SAMPLE_RATE_HZ


def _assert_same_sound(heard: bytes, expected: bytes) -> None:
    """At most one sample of a thousand is one step of mu-law apart, where rounding falls on an edge."""
    apart = np.abs(_order(heard) - _order(expected))
    assert apart.max() <= 1
    assert (apart == 1).mean() <= 0.001


def _order(payload: bytes) -> NDArray[np.int64]:
    """Number the values of mu-law from the lowest to the highest; both zeros are one."""
    values = np.unique(mulaw.decode(bytes(range(256))))
    return np.searchsorted(values, mulaw.decode(payload))
