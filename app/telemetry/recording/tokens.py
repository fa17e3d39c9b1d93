"""The token log of a call: what Moshi read and sampled in each step, from which the call can be rendered again.

The file is one line of JSON, the header, then a record for each step in the order of `seq`, that of the frame read in
the step. A record is 17 little-endian int16: the text token and the eight codes sampled in the step, then the caller's
eight codes, as `Engine.prefill` reads them. All are -1 for a frame that was dropped. Codebook c of Moshi's frame f was
sampled `delays[c]` steps after f. The last record may be cut short.
"""

import json
import os
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.telemetry.recording.store import private
from app.twilio.events import CallSid
from workers.messages import STEP_TOKENS

RECORD_BYTES = 2 * STEP_TOKENS
NO_STEP = bytes([0xFF]) * RECORD_BYTES
MAX_MISSING = 4_000
"""Steps that may be missing in a row, five minutes' worth."""
KIND = "moshi-bridge tokens 1"


class TokenLogError(ValueError):
    """The message says why the file is none."""


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """Which call it is; `began` is UTC, ISO 8601."""

    call_sid: CallSid
    checkpoint: str
    began: str
    greeting_frames: int
    kind: str = KIND


class TokenLog:
    """A new file, made when there is a first record to write; whatever touches it may raise OSError."""

    def __init__(self, path: Path, header: TokenHeader) -> None:
        self._path, self._header = path, header
        self._file: FileIO | None = None
        self._rest = b""
        self._next = 0

    def add(self, seq: int, tokens: bytes) -> None:
        """Add the record of step `seq`, 34 bytes; one older than the last is ignored."""
        missing = seq - self._next
        if 0 <= missing <= MAX_MISSING and len(tokens) == RECORD_BYTES:
            self._rest += NO_STEP * missing + tokens
            self._next = seq + 1

    def restart(self) -> None:
        """Forget the records so far, of which none has been written."""
        self._rest, self._next = b"", 0

    def write(self) -> None:
        if self._rest and self._file is None:
            self._file = FileIO(self._path, "x", opener=private)
            self._rest = json.dumps(asdict(self._header)).encode() + b"\n" + self._rest
        while self._rest and self._file:
            self._rest = self._rest[os.write(self._file.fileno(), self._rest) :]

    def close(self) -> None:
        if self._file:
            self._file.close()


def read_tokens(path: Path) -> tuple[TokenHeader, NDArray[np.int16]]:
    """Return the header and the records, shape (steps, 17). Raises TokenLogError, OSError."""
    first, _, records = path.read_bytes().partition(b"\n")
    try:
        header = TokenHeader(**json.loads(first))
    except (ValueError, TypeError) as error:
        raise TokenLogError(f"{path} is no token log") from error
    if header.kind != KIND:
        raise TokenLogError(f"{path} is of another kind: {header.kind}")
    whole = len(records) // RECORD_BYTES * RECORD_BYTES
    return header, np.frombuffer(records[:whole], "<i2").astype(np.int16).reshape(-1, STEP_TOKENS)
