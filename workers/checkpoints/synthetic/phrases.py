"""What `synthetic:script` can say: the recorded phrases, when each of their words begins, and words on their own."""

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
def recorded_words() -> dict[str, Pcm]:
    """Return the words that can be said on their own, each at 24 kHz, shape (frames * 1920,)."""
    words: list[tuple[str, int]] = json.loads((FOLDER / "words.json").read_text())
    samples, rate_hz = soundfile.read(FOLDER / "words.flac", dtype="float32")
    frame = rate_hz * FRAME_SAMPLES // SAMPLE_RATE_HZ
    parts = np.split(samples, np.cumsum([frame * frames for _, frames in words])[:-1])
    return {word: whole_frames(_resample(part, rate_hz)) for (word, _), part in zip(words, parts, strict=True)}


@cache
def phrases() -> tuple[Phrase, ...]:
    """Return the greeting, then the replies in their order."""
    return tuple(_phrase(**entry) for entry in json.loads((FOLDER / "phrases.json").read_text()))


def read_recording(path: Path) -> Pcm:
    """Return a recording at 24 kHz, any number of samples."""
    return _resample(*soundfile.read(path, dtype="float32"))


def _phrase(name: str, text: str, onsets_ms: list[int]) -> Phrase:
    """Of two words that begin in one frame the second is moved to the next."""
    pcm = whole_frames(read_recording(FOLDER / f"{name}.wav"))
    onsets = (onset_ms * SAMPLE_RATE_HZ // 1000 // FRAME_SAMPLES for onset_ms in onsets_ms)
    frames = accumulate(onsets, lambda last, frame: max(frame, last + 1))
    return Phrase(name, pcm, tuple(zip(frames, text.split(), strict=True)))


def whole_frames(pcm: Pcm) -> Pcm:
    """Return the samples with silence behind them to the end of their last frame."""
    return np.pad(pcm, (0, -len(pcm) % FRAME_SAMPLES))


def _resample(samples: Pcm, rate_hz: int) -> Pcm:
    return soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, "VHQ").astype(np.float32)  # type: ignore[no-any-return]
