"""The file of a call that is on: stereo mu-law at 8 kHz in a WAV file that can be played after every write."""

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.audio.mulaw import SAMPLE_RATE_HZ, SILENCE
from app.telemetry.recording.timeline import Piece, Side

CHANNELS = len(Side)
_HEADER = struct.Struct("<4sI4s 4sIHHIIHHH 4sII 4sI")
HEADER_BYTES = _HEADER.size
_MULAW = 7


class RecordingFile:
    """A new file, locked until `close`; whatever touches it may raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length = 0
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._write_header()
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
            samples[piece.begin - begin : piece.end - begin, piece.side] = np.frombuffer(piece.payload, np.uint8)
        self._write(samples, begin)

    def end(self, length: int) -> None:
        """Cut or extend the recording to so many samples."""
        if length >= self._length:
            self._write(self._read(self._length, length), self._length)
            return
        os.ftruncate(self._descriptor, HEADER_BYTES + CHANNELS * length)
        self._length = length
        self._write_header()

    def sync(self) -> None:
        os.fdatasync(self._descriptor) if hasattr(os, "fdatasync") else os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Return what the file has of these samples, shape (end - begin, 2), silence after its end."""
        samples = np.full((end - begin, CHANNELS), SILENCE, np.uint8)
        known = os.pread(self._descriptor, CHANNELS * (self._length - begin), HEADER_BYTES + CHANNELS * begin)
        samples.reshape(-1)[: len(known)] = np.frombuffer(known, np.uint8)
        return samples

    def _write(self, samples: NDArray[np.uint8], begin: int) -> None:
        rest, offset = samples.tobytes(), HEADER_BYTES + CHANNELS * begin
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
        self._length = begin + len(samples)
        self._write_header()

    def _write_header(self) -> None:
        header = wav_header(self._length)
        if os.pwrite(self._descriptor, header, 0) != len(header):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wav_header(length: int) -> bytes:
    """Return the header of a mu-law WAV file of so many stereo samples (RFC 2361, Microsoft's format tag 7)."""
    size, rate_hz = CHANNELS * length, SAMPLE_RATE_HZ
    form = (_MULAW, CHANNELS, rate_hz, CHANNELS * rate_hz, CHANNELS, 8, 0)
    riff = (b"RIFF", HEADER_BYTES - 8 + size, b"WAVE")
    return _HEADER.pack(*riff, b"fmt ", 18, *form, b"fact", 4, length, b"data", size)
