"""What `synthetic:script` can say: the recordings, and when each word begins."""

import json
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
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
    return tuple(_phrase(**entry) for entry in json.loads((FOLDER / "phrases.json").read_text()))


def _phrase(name: str, text: str, onsets_ms: list[int]) -> Phrase:
    """Of two words that begin in one frame the second is moved to the next."""
    samples, rate_hz = soundfile.read(FOLDER / f"{name}.wav", dtype="float32")
    pcm = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, "VHQ")
    whole_frames = np.pad(pcm, (0, -len(pcm) % FRAME_SAMPLES)).astype(np.float32)
    onsets = (onset_ms * SAMPLE_RATE_HZ // 1000 // FRAME_SAMPLES for onset_ms in onsets_ms)
    frames = accumulate(onsets, lambda last, frame: max(frame, last + 1))
    return Phrase(name, whole_frames, tuple(zip(frames, text.split(), strict=True)))
