"""Microphone and loudspeaker of this machine through PortAudio, whose callbacks run in threads of its own."""

import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from app.audio.playback_buffer import MS
from app.cli.talk.sound import AudioEndpoint, TalkFailed
from workers.messages import SAMPLE_RATE_HZ, Pcm

BLOCK = 20 * MS
STREAM = {"samplerate": SAMPLE_RATE_HZ, "channels": 1, "dtype": "float32", "blocksize": BLOCK, "latency": "low"}
NO_PACKAGE = "the package sounddevice is not installed: pip install 'moshi-bridge[talk]'; or use --wav"
NO_PORTAUDIO = "PortAudio is not installed: apt install libportaudio2, dnf install portaudio, brew install portaudio"


class DeviceSound(AudioEndpoint):
    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        """Guards `buffer`."""
        self._said: queue.SimpleQueue[Pcm] = queue.SimpleQueue()

    def handle_input(self, recorded: Pcm, frames: int, time: object, status: object) -> None:
        """Take what the microphone has recorded, shape (frames, 1)."""
        self._said.put(recorded[:, 0].copy())

    def handle_output(self, played: Pcm, frames: int, time: object, status: object) -> None:
        """Fill in what the loudspeaker plays next, shape (frames, 1)."""
        with self._lock:
            played[:, 0] = self.buffer.pull(frames)

    def read(self, now: float) -> Pcm:
        blocks = [self._said.get_nowait() for _ in range(self._said.qsize())]
        return np.concatenate([np.zeros(0, np.float32), *blocks])

    def add_heard(self, samples: Pcm) -> None:
        with self._lock:
            super().add_heard(samples)


@contextmanager
def open_devices() -> Iterator[DeviceSound]:
    """Open the system's default devices. Raises TalkFailed."""
    library, sound = _load(), DeviceSound()
    with ExitStack() as streams:
        try:
            streams.enter_context(library.OutputStream(callback=sound.handle_output, **STREAM))
            streams.enter_context(library.InputStream(callback=sound.handle_input, **STREAM))
        except (library.PortAudioError, ValueError) as error:
            said = " ".join(str(error).split())
            raise TalkFailed(f"no microphone or no loudspeaker can be used here ({said}); use --wav") from error
        yield sound


def _load() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise TalkFailed(NO_PACKAGE) from error
    except OSError as error:
        raise TalkFailed(f"{NO_PORTAUDIO}; or use --wav") from error
    return sounddevice
