"""The audio files of calls: WAV while a call is on, FLAC afterwards; their waveform.

The WAV file is stereo mu-law, and can be played after every write.
"""

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from app.audio.mulaw import SAMPLE_RATE_HZ, SILENCE
from app.telemetry.recording.store import FLAC, PART, private
from app.telemetry.recording.timeline import Channel, Piece

CHANNELS = len(Channel)
_HEADER = struct.Struct("<4sI4s 4sIHHIIHHH 4sII 4sI")
HEADER_BYTES = _HEADER.size
_MULAW = 7
BLOCK = 1 << 16
"""Stereo samples at a time, eight seconds of a phone call."""


class RecordingFile:
    """A new file, locked until `close`; whatever touches it may raise OSError."""

    def __init__(self, path: Path, rate_hz: int = SAMPLE_RATE_HZ) -> None:
        self.path, self._rate_hz = path, rate_hz
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._set_length(0)
        except OSError:
            path.unlink()
            self.close()
            raise

    def write(self, pieces: Sequence[Piece]) -> None:
        """Write pieces, later ones over earlier ones; gaps are silent."""
        if not pieces:
            return
        begin = min(self._length, min(piece.begin for piece in pieces))
        end = max(self._length, max(piece.end for piece in pieces))
        samples = self._read(begin, end)
        for piece in pieces:
            first = CHANNELS * (piece.begin - begin) + piece.channel
            samples[first : first + CHANNELS * len(piece.payload) : CHANNELS] = piece.payload
        self._write(samples, begin)

    def end(self, length: int) -> None:
        """Cut or extend the recording to so many samples."""
        if length >= self._length:
            self._write(self._read(self._length, length), self._length)
            return
        os.ftruncate(self._descriptor, HEADER_BYTES + CHANNELS * length)
        self._set_length(length)

    def sync(self) -> None:
        os.fdatasync(self._descriptor) if hasattr(os, "fdatasync") else os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self, begin: int, end: int) -> bytearray:
        """Return what the file has of these samples, silence after its end."""
        known = os.pread(self._descriptor, CHANNELS * (self._length - begin), HEADER_BYTES + CHANNELS * begin)
        return bytearray(known.ljust(CHANNELS * (end - begin), bytes([SILENCE])))

    def _write(self, samples: bytearray, begin: int) -> None:
        self._put(bytes(samples), HEADER_BYTES + CHANNELS * begin)
        self._set_length(begin + len(samples) // CHANNELS)

    def _set_length(self, length: int) -> None:
        self._length = length
        self._put(wav_header(length, self._rate_hz), 0)

    def _put(self, data: bytes, offset: int) -> None:
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written


def wav_header(length: int, rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """Return the header of a mu-law WAV file of so many stereo samples (RFC 2361, Microsoft's format tag 7)."""
    size = CHANNELS * length
    form = (_MULAW, CHANNELS, rate_hz, CHANNELS * rate_hz, CHANNELS, 8, 0)
    riff = (b"RIFF", HEADER_BYTES - 8 + size, b"WAVE")
    return _HEADER.pack(*riff, b"fmt ", 18, *form, b"fact", 4, length, b"data", size)


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
    """Turn a WAV file into FLAC of the same name and date and delete it; return the FLAC.

    None if the WAV file was empty or somebody has deleted it: then there is no FLAC either. If this is interrupted, or
    raises AudioFileError or OSError, the WAV file stays.
    """
    try:
        written_at = recording.stat()
    except FileNotFoundError:
        return None
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
    with FileIO(target, "w+", opener=private) as file, open_audio(source_path) as source:
        form = {"samplerate": source.samplerate, "channels": source.channels, "format": "FLAC"}
        with soundfile.SoundFile(file.fileno(), "w", **form, closefd=False) as sink:
            for block in source.blocks(BLOCK, dtype="int16"):
                sink.write(block)
        os.fsync(file.fileno())
        with open_audio(target) as made:  # no error is reported of the last block, which `close` writes
            if made.frames != source.frames:
                raise AudioFileError(f"{target.name}: could not be written to its end")


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
        name: {extreme: np.round(values[:, side] / 32_768, 4).tolist() for extreme, values in extremes}
        for side, name in enumerate(("caller", "moshi"))
    }
    return {"seconds": round(seconds, 3), "buckets": count, **sides}
