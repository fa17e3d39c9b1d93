"""Makes the FLAC file of a recording whose call is over."""

import os
from pathlib import Path

import soundfile

from app.telemetry.recording.recording_file import HEADER_BYTES
from app.telemetry.recording.store import FLAC, PART

BLOCK = 1 << 16
"""Stereo samples at a time, eight seconds."""


class AudioFileError(Exception):
    """A file could not be read or written as audio; the message says which and why."""


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
        with soundfile.SoundFile(source_path) as source:
            form = {"mode": "w", "samplerate": source.samplerate, "channels": source.channels, "format": "FLAC"}
            with soundfile.SoundFile(descriptor, **form, closefd=False) as sink:
                for block in source.blocks(BLOCK, dtype="int16"):
                    sink.write(block)
            os.fsync(descriptor)
    except soundfile.SoundFileError as error:
        raise AudioFileError(f"{source_path.name}: {error}") from error
    finally:
        os.close(descriptor)
