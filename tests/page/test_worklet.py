"""The arithmetic of the talk page's audio thread, run in a browser against numpy and the rules in Python."""

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.audio.playback_buffer import PlaybackBuffer
from tests.page.running import Running
from workers.messages import Pcm

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
RATE_HZ = 24_000
BLOCK = 128
"""Samples for which the audio thread calls at a time."""


PACKED = """
const unpack = (text) => new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
const pack = (numbers) => {
  const bytes = new Uint8Array(Float32Array.from(numbers).buffer), parts = [];
  for (let place = 0; place < bytes.length; place += 4096)
    parts.push(String.fromCharCode(...bytes.subarray(place, place + 4096)));
  return btoa(parts.join(""));
};"""
"""Samples go to the browser and back as base64: as JSON they take a hundred times as long."""
RESAMPLE = """async ([packed, from, to, block, wanted]) => {PACKED
  const { Resampler } = await import("/page/worklet.js");
  const resampler = new Resampler(from, to), samples = unpack(packed), out = [];
  for (let place = 0; place < samples.length; ) {
    const count = wanted ? resampler.needed(block) : block;
    out.push(...resampler.process(samples.slice(place, place + count), wanted ? block : undefined));
    place += count;
  }
  return pack(out);
}""".replace("PACKED", PACKED)


def pack(samples: Pcm) -> str:
    return b64encode(samples.astype("<f4").tobytes()).decode()


def unpack(packed: str) -> Pcm:
    return np.frombuffer(b64decode(packed), "<f4")


async def resampled(page: "Page", samples: Pcm, from_hz: int, to_hz: int, is_pulled: bool) -> Pcm:
    return unpack(await page.evaluate(RESAMPLE, [pack(samples), from_hz, to_hz, BLOCK, is_pulled]))


def tone(hz: float, rate_hz: int, length: int) -> Pcm:
    return np.sin(2 * np.pi * hz * np.arange(length) / rate_hz).astype(np.float32)


def part_at(samples: Pcm, hz: float, rate_hz: int) -> tuple[float, float]:
    """Return the amplitude of a frequency and the RMS of all else, both in dB of a full tone, without the ends."""
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(np.float64)
    angles = 2 * np.pi * hz * np.arange(len(middle)) / rate_hz
    base = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    (sine, cosine), *_ = np.linalg.lstsq(base, middle)
    rest = middle - base @ [sine, cosine]
    return 20 * np.log10(np.hypot(sine, cosine) + 1e-9), 20 * np.log10(np.sqrt(2 * np.mean(rest**2)) + 1e-9)


@pytest.mark.parametrize("device_hz", [16_000, 24_000, 44_100, 48_000, 96_000])
async def test_any_rate_becomes_24_khz_and_back_without_another_tone(
    running: Running, page: "Page", device_hz: int
) -> None:
    await page.goto(f"{running.url}/talk")
    for from_hz, to_hz, is_pulled in ((device_hz, RATE_HZ, False), (RATE_HZ, device_hz, True)):
        for hz in (200, 1_000, 6_000):
            heard = await resampled(page, tone(hz, from_hz, from_hz // 2), from_hz, to_hz, is_pulled)
            assert len(heard) == pytest.approx(to_hz / 2, abs=to_hz / 100)
            amplitude, rest = part_at(heard, hz, to_hz)
            assert amplitude == pytest.approx(0.0, abs=0.1)
            assert rest < -60


@pytest.mark.parametrize("hz", [13_500, 17_000, 22_000])
async def test_what_24_khz_cannot_hold_is_left_out(running: Running, page: "Page", hz: int) -> None:
    await page.goto(f"{running.url}/talk")
    heard = await resampled(page, tone(hz, 48_000, 24_000), 48_000, RATE_HZ, is_pulled=False)
    assert np.sqrt(2 * np.mean(heard[1_000:-1_000] ** 2)) < 10 ** (-50 / 20)


PLAY = """async (steps) => {PACKED
  const { PlaybackBuffer } = await import("/page/worklet.js");
  const buffer = new PlaybackBuffer(), played = [];
  for (const [pushed, count] of steps) {
    if (pushed.length) buffer.push(unpack(pushed));
    played.push(...buffer.pull(count));
  }
  return [pack(played), buffer.underruns, buffer.dropped];
}""".replace("PACKED", PACKED)


@pytest.mark.parametrize("seed", range(3))
async def test_the_playback_buffer_plays_what_the_one_in_python_plays(
    running: Running, page: "Page", seed: int
) -> None:
    """Pages of 40 ms that come with jitter, in bursts, and stop at times, for ten seconds."""
    await page.goto(f"{running.url}/talk")
    random = np.random.default_rng(seed)
    ours, steps, played = PlaybackBuffer(), [], []
    for _ in range(RATE_HZ * 10 // 64):
        pages = int(random.choice([0, 1, 6], p=[0.934, 0.063, 0.003]))
        samples = random.uniform(-1, 1, 960 * pages).astype(np.float32)
        steps.append((pack(samples), 64))
        if pages:
            ours.push(samples)
        played.append(ours.pull(64))
    theirs, underruns, dropped = await page.evaluate(PLAY, steps)
    assert (underruns, dropped) == (ours.underruns, ours.dropped)
    assert ours.underruns > 3
    assert ours.dropped > 0
    assert np.abs(unpack(theirs) - np.concatenate(played)).max() < 1e-6
