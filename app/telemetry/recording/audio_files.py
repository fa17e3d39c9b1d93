"""Reads and writes audio files with libsndfile; makes the FLAC file of a recording whose call is over."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile

from app.telemetry.recording.recording_file import HEADER_BYTES
from app.telemetry.recording.store import FLAC, PART

BLOCK = 1 << 16
"""Stereo samples at a time, eight seconds."""


class AudioFileError(Exception):
    """A file could not be read or written as audio; the message says which and why."""


@contextmanager
def open_audio(path: Path, *form: Any) -> Iterator[Any]:
    """Open a file to read, or to write with "w", rate and channels (16 bits). Raises AudioFileError, also within."""
    try:
        with soundfile.SoundFile(path, *form) as file:
            yield file
    except soundfile.SoundFileError as error:
        raise AudioFileError(f"{path.name}: {error}") from error


def encode_flac(recording: Path) -> Path | None:
    """Turn a WAV file into FLAC of the same name and date and delete it; return the FLAC, None if it was empty.

    If this is interrupted, or raises AudioFileError or OSError, the WAV file stays. If somebody deletes it meanwhile
    the FLAC is deleted as well.
    """
    written_at = recording.stat()
    if written_at.st_size <= HEADER_BYTES:
        recording.unlink()
        return None
    part, flac = recording.with_suffix(PART), recording.with_suffix(FLAC)
    try:
        _encode(recording, part)
        os.utime(part, ns=(written_at.st_atime_ns, written_at.st_mtime_ns))
        part.replace(flac)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    try:
        recording.unlink()
    except FileNotFoundError:
        flac.unlink(missing_ok=True)
        return None
    return flac


def _encode(source_path: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
    try:
        with open_audio(source_path) as source:
            form = {"samplerate": source.samplerate, "channels": source.channels, "format": "FLAC"}
            with soundfile.SoundFile(descriptor, "w", **form, closefd=False) as sink:
                for block in source.blocks(BLOCK, dtype="int16"):
                    sink.write(block)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
