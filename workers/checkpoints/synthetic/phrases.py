"""What `synthetic:script` can say: the recordings, and when each word begins."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from workers.messages import FRAME_SAMPLES, SAMPLE_RATE_HZ, Pcm

FOLDER = Path(__file__).parent / "phrases"


@dataclass(frozen=True, slots=True)
class Phrase:
    """One recording: `pcm` at 24 kHz, shape (frames * 1920,).

    `words` are (frame in which it begins, word), at most one a frame.
    """

    name: str
    pcm: Pcm
    words: tuple[tuple[int, str], ...]

    @property
    def frames(self) -> int:
        return len(self.pcm) // FRAME_SAMPLES

    @property
    def text(self) -> str:
        return " ".join(word for _, word in self.words)


@cache
def phrases() -> tuple[Phrase, ...]:
    """Return the greeting, then the replies in their order."""
    listed = json.loads((FOLDER / "phrases.json").read_text())
    return tuple(_phrase(**entry) for entry in listed)


def _phrase(name: str, text: str, onsets_ms: list[int]) -> Phrase:
    samples, rate_hz = soundfile.read(FOLDER / f"{name}.wav", dtype="float32")
    pcm = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, "VHQ")
    whole_frames = np.pad(pcm, (0, -len(pcm) % FRAME_SAMPLES)).astype(np.float32)
    return Phrase(name, whole_frames, tuple(zip(_frames(onsets_ms), text.split(), strict=True)))


def _frames(onsets_ms: list[int]) -> list[int]:
    """Return the frame of each onset; of two words that begin in one frame the second is moved to the next."""
    frames: list[int] = []
    for onset_ms in onsets_ms:
        frame = onset_ms * SAMPLE_RATE_HZ // 1000 // FRAME_SAMPLES
        frames.append(max(frame, frames[-1] + 1) if frames else frame)
    return frames
