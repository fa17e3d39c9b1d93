"""The token log of a call: what Moshi read and drew in each step, from which the call can be made again.

The file. One line of JSON, which says what the call was; then a record for each step, in the order of `seq`, that of
the frame heard in the step. A record is 17 little-endian int16: the text token and the eight codes drawn in the step,
then the caller's eight codes, as `Engine.prefill` wants them. All are -1 where a frame met no step, for it was dropped.
Codebook c of Moshi's frame f was drawn `delays[c]` steps after f. A record cut short at the end is to be left aside.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.twilio.events import CallSid

TOKENS = 17
RECORD_BYTES = 2 * TOKENS
NO_STEP = bytes([0xFF]) * RECORD_BYTES
MOST_MISSING = 4_000
"""Steps that may be missing in a row, five minutes' worth; a log with more is none."""
KIND = "moshi-bridge tokens 1"


class TokenLogError(ValueError):
    """The file is no token log; the message says why."""


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """What the call was; `began` is UTC, ISO 8601."""

    call_sid: CallSid
    checkpoint: str
    began: str
    greeting_frames: int
    kind: str = KIND


class TokenLog:
    """One file, made anew by the first `write`; whatever touches it may raise OSError."""

    def __init__(self, path: Path, header: TokenHeader) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._rest = json.dumps(asdict(header)).encode() + b"\n"
        self._next = 0

    def add(self, seq: int, tokens: bytes) -> None:
        """Take the record of step `seq`, 34 bytes; `write` writes it. What is older than the last one is left aside."""
        missing = seq - self._next
        if 0 <= missing <= MOST_MISSING and len(tokens) == RECORD_BYTES:
            self._rest += NO_STEP * missing + tokens
            self._next = seq + 1

    def write(self) -> None:
        """Write what was added."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        while self._rest:
            self._rest = self._rest[os.write(self._descriptor, self._rest) :]

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)


def read_tokens(path: Path) -> tuple[TokenHeader, NDArray[np.int16]]:
    """Return what a token log says of its call, and its records, shape (steps, 17). Raises TokenLogError, OSError."""
    first, _, records = path.read_bytes().partition(b"\n")
    try:
        header = TokenHeader(**json.loads(first))
    except (ValueError, TypeError) as error:
        raise TokenLogError(f"{path} is no token log") from error
    if header.kind != KIND:
        raise TokenLogError(f"{path} is of another kind: {header.kind}")
    whole = len(records) // RECORD_BYTES * RECORD_BYTES
    return header, np.frombuffer(records[:whole], "<i2").astype(np.int16).reshape(-1, TOKENS)
