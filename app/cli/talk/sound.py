"""Where the sound of a conversation comes from and goes to: a file in real time; `devices` has the other one."""

from pathlib import Path

import numpy as np

from app.audio.playback_buffer import MS, PlaybackBuffer
from app.audio.resample import to_int16
from app.simulator.wav import read_audio, write_stereo
from workers.messages import SAMPLE_RATE_HZ, Pcm

BLOCK = 10 * MS
TAIL_S = 3.0
"""Silence after the file's end, for the answer."""
AUDIBLE = 0.01
"""-40 dBFS."""


class TalkFailed(Exception):
    """The conversation did not begin, or broke; the message is one line."""


class AudioEndpoint:
    """Where what is said comes from and what is heard goes to; `now` in seconds, monotonic."""

    live = True
    """What is said cannot wait."""

    def __init__(self) -> None:
        self.buffer = PlaybackBuffer()

    def start(self, now: float) -> None:
        """The conversation begins."""

    def read(self, now: float) -> Pcm:
        """Return what has been said since the last time."""
        raise NotImplementedError

    def add_sent(self, packet: Pcm) -> None:
        """Count a packet that is sent now."""

    def add_heard(self, samples: Pcm) -> None:
        """Add what the server sent."""
        self.buffer.push(samples)

    def ended(self) -> bool:
        """Tell whether all has been said and heard."""
        return False


class FileSound(AudioEndpoint):
    """Says a file at the pace of speech, then silence; keeps what was sent and what a listener would have heard."""

    live = False

    def __init__(self, said: Pcm, length_s: float | None = None) -> None:
        """`length_s` of the conversation: None for the file's length and three seconds."""
        super().__init__()
        samples = len(said) + TAIL_S * SAMPLE_RATE_HZ if length_s is None else length_s * SAMPLE_RATE_HZ
        self._blocks = max(1, round(samples / BLOCK))
        self._said = np.pad(said, (0, max(0, self._blocks * BLOCK - len(said))))
        self._started_s: float | None = None
        self._sent: list[Pcm] = []
        self._heard: list[Pcm] = []
        """A block each: their number is how far the conversation has come."""

    def start(self, now: float) -> None:
        self._started_s = now

    def read(self, now: float) -> Pcm:
        if self._started_s is None:
            return np.zeros(0, np.float32)
        first = len(self._heard)
        due = min(int((now - self._started_s) * SAMPLE_RATE_HZ) // BLOCK, self._blocks)
        self._heard += [self.buffer.pull(BLOCK) for _ in range(first, due)]
        return self._said[first * BLOCK : due * BLOCK]

    def add_sent(self, packet: Pcm) -> None:
        self._sent.append(packet)

    def ended(self) -> bool:
        return len(self._heard) >= self._blocks

    @property
    def length_s(self) -> float:
        return len(self._heard) * BLOCK / SAMPLE_RATE_HZ

    @property
    def first_sound_s(self) -> float | None:
        """When the server was heard first, in seconds after the handshake."""
        audible = np.flatnonzero(np.abs(_join(self._heard)) > AUDIBLE)
        return float(audible[0]) / SAMPLE_RATE_HZ if len(audible) else None

    def save(self, path: Path) -> None:
        """Write what was sent (left) and heard (right), from the handshake on."""
        left, right = (to_int16(_join(side)) for side in (self._sent, self._heard))
        write_stereo(path, left, right, SAMPLE_RATE_HZ)


def open_file(path: Path, length_s: float | None) -> FileSound:
    """Raises OSError, ValueError if it is no audio."""
    return FileSound(read_audio(path, SAMPLE_RATE_HZ).astype(np.float32) / np.float32(32_768), length_s)


def _join(blocks: list[Pcm]) -> Pcm:
    return np.concatenate([np.zeros(0, np.float32), *blocks])
