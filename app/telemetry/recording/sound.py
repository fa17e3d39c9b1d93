"""Sound files of recordings: tapes become FLAC, recordings are looked at and written."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from app.telemetry.recording.recording_file import EMPTY_BYTES
from app.telemetry.recording.store import SOUND, UNFINISHED

BLOCK = 1 << 16
"""Stereo samples at a time, eight seconds."""
FULL_SCALE = 1 << 15


class SoundError(Exception):
    """A file could not be read or written as sound; the message says which and why."""


def finish(tape: Path) -> Path | None:
    """Turn a tape into FLAC of the same name and date and delete it; return the FLAC, None if the tape was empty.

    If it is interrupted the tape stays, and so it does if this raises SoundError or OSError. If somebody deletes the
    tape meanwhile the FLAC goes as well.
    """
    written_at = tape.stat()
    if written_at.st_size <= EMPTY_BYTES:
        tape.unlink()
        return None
    unfinished, sound = tape.with_suffix(UNFINISHED), tape.with_suffix(SOUND)
    try:
        _encode(tape, unfinished)
        os.utime(unfinished, ns=(written_at.st_atime_ns, written_at.st_mtime_ns))
        unfinished.replace(sound)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    try:
        tape.unlink()
    except FileNotFoundError:
        sound.unlink(missing_ok=True)
        return None
    return sound


def _encode(tape: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
    try:
        with soundfile.SoundFile(tape) as source:
            form = {"mode": "w", "samplerate": source.samplerate, "channels": source.channels, "format": "FLAC"}
            with soundfile.SoundFile(descriptor, **form, closefd=False) as sink:
                for block in source.blocks(BLOCK, dtype="int16"):
                    sink.write(block)
            os.fsync(descriptor)
    except soundfile.SoundFileError as error:
        raise SoundError(f"{tape.name}: {error}") from error
    finally:
        os.close(descriptor)


def blocks_of(path: Path, samples: int) -> Iterator[NDArray[np.int16]]:
    """Yield a file so many samples at a time, int16 (samples, channels). Raises SoundError."""
    try:
        with soundfile.SoundFile(path) as source:
            yield from source.blocks(samples, dtype="int16", always_2d=True)
    except soundfile.SoundFileError as error:
        raise SoundError(f"{path.name}: {error}") from error


def length_of(path: Path) -> tuple[int, int]:
    """Return how many samples a file has, and how many a second. Raises SoundError."""
    try:
        found = soundfile.info(str(path))
    except soundfile.SoundFileError as error:
        raise SoundError(f"{path.name}: {error}") from error
    return int(found.frames), int(found.samplerate)


class SoundWriter:
    """A new FLAC or WAV file, by the suffix of `path`, of 16 bits. Raises SoundError."""

    def __init__(self, path: Path, rate_hz: int, channels: int) -> None:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._file: Any = soundfile.SoundFile(path, "w", rate_hz, channels, "PCM_16")
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise SoundError(f"{path}: {error}") from error

    def write(self, samples: NDArray[np.float32]) -> None:
        """Add float32 (samples, channels) in [-1, 1]; what is louder is clipped."""
        try:
            self._file.write(np.clip(samples, -1.0, 1.0 - 1 / FULL_SCALE))
        except soundfile.SoundFileError as error:
            raise SoundError(str(error)) from error

    def close(self) -> None:
        with suppress(soundfile.SoundFileError):
            self._file.close()
