"""Reads and writes audio files with libsndfile: the FLAC of a recording whose call is over, the waveform of any."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from app.telemetry.recording.recording_file import HEADER_BYTES
from app.telemetry.recording.store import FLAC, PART

BLOCK = 1 << 16
"""Stereo samples at a time, eight seconds."""
FULL_SCALE = 1 << 15
DECIMALS = 4


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


def read_waveform(path: Path, buckets: int) -> dict[str, object]:
    """Return the least and the greatest sample of caller and Moshi, in [-1, 1], in so many parts of equal length.

    There are no more parts than samples. Raises AudioFileError.
    """
    bounds, at = np.iinfo(np.int16), 0
    with open_audio(path) as source:
        count = min(buckets, source.frames)
        low, high = np.full((count, 2), bounds.max, np.int16), np.full((count, 2), bounds.min, np.int16)
        for block in source.blocks(BLOCK, dtype="int16", always_2d=True):
            bucket = np.arange(at, at + len(block)) * count // source.frames
            starts = np.flatnonzero(np.diff(bucket, prepend=-1))
            found = bucket[starts]
            low[found] = np.minimum(low[found], np.minimum.reduceat(block, starts))
            high[found] = np.maximum(high[found], np.maximum.reduceat(block, starts))
            at += len(block)
        seconds = source.frames / source.samplerate
    extremes = (("min", low), ("max", high))
    sides = {
        name: {extreme: np.round(values[:, side] / FULL_SCALE, DECIMALS).tolist() for extreme, values in extremes}
        for side, name in enumerate(("caller", "moshi"))
    }
    return {"seconds": round(seconds, 3), "buckets": count, **sides}
