"""What the caller hears: a model of Twilio's playout buffer, exact to the sample.

Theory of operation. Playout is first in, first out, at 8 kHz, and never stops: audio is heard when it arrives, or from
the end of the audio before it, whichever is later. So all that is received is appended to one array of what the
caller hears; `now` is a cursor in it, a mark is a position, and `clear` cuts it off at the cursor.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from app.audio.mulaw import SILENCE
from app.twilio.events import RATE_HZ

MAX_BUFFERED_S = 600
"""Twilio discards what would make the buffer longer (warning 31931)."""


@dataclass(frozen=True, slots=True)
class Underrun:
    """A gap heard between two sounds: the audio after it came too late."""

    start_s: float
    length_s: float


class BufferLevel(NamedTuple):
    """How far the buffer was ahead, in seconds, when more audio arrived."""

    at_s: float
    buffered_s: float


@dataclass(frozen=True, slots=True)
class ReturnedMark:
    """A mark on its way back: played, or `cleared`, which the server cannot tell apart."""

    name: str
    received_s: float
    returned_s: float
    cleared: bool


class PlayoutModel:
    """The buffer of one call, on a clock whose zero is the start of the call.

    `now` is in seconds and never goes back; where it does, the latest `now` counts.
    """

    def __init__(self) -> None:
        self.underruns: list[Underrun] = []
        self.buffer_levels: list[BufferLevel] = []
        self.returned: list[ReturnedMark] = []
        self.discarded_samples = 0
        self._heard = bytearray()
        self._cursor = 0
        self._gap_counts = False
        self._marks: deque[tuple[str, int, float]] = deque()
        """Name, position in what is heard, when it was received."""

    def receive(self, payload: bytes, now: float) -> None:
        """Queue mu-law audio behind all that was received before."""
        ahead = len(self._heard) - self._move(now)
        if ahead + len(payload) > MAX_BUFFERED_S * RATE_HZ:
            self.discarded_samples += len(payload)
            return
        self.buffer_levels.append(BufferLevel(now, max(ahead, 0) / RATE_HZ))
        if ahead < 0:
            if self._gap_counts:
                self.underruns.append(Underrun(len(self._heard) / RATE_HZ, -ahead / RATE_HZ))
            self._heard += bytes([SILENCE]) * -ahead
        self._heard += payload
        self._gap_counts = True

    def mark(self, name: str, now: float) -> None:
        """Queue a mark; the next `advance` returns it if no audio lies before it."""
        self._marks.append((name, max(len(self._heard), self._move(now)), now))

    def clear(self, now: float) -> list[str]:
        """Drop what has not been heard; return every outstanding mark.

        The silence that follows is no underrun, unless there was nothing to drop.
        """
        self._gap_counts &= self.buffered_s(now) == 0
        del self._heard[self._move(now) :]
        return self._return(len(self._marks), now, cleared=True)

    def advance(self, now: float) -> list[str]:
        """Play up to `now`; return the marks reached, in order."""
        cursor = self._move(now)
        return self._return(sum(position <= cursor for _, position, _ in self._marks), now, cleared=False)

    def next_mark_s(self) -> float:
        """Return when the next mark will be reached, infinity without one."""
        return self._marks[0][1] / RATE_HZ if self._marks else math.inf

    def buffered_s(self, now: float) -> float:
        return max(len(self._heard) - self._move(now), 0) / RATE_HZ

    def heard(self, now: float, since_s: float = 0.0) -> bytes:
        """Return what has been heard from `since_s` to `now`, as mu-law at 8 kHz, silence included."""
        cursor, start = self._move(now), math.floor(since_s * RATE_HZ + 1e-6)
        return bytes(self._heard[start:cursor]).ljust(cursor - start, bytes([SILENCE]))

    def _move(self, now: float) -> int:
        self._cursor = max(self._cursor, math.floor(now * RATE_HZ + 1e-6))
        return self._cursor

    def _return(self, count: int, now: float, cleared: bool) -> list[str]:
        marks = [self._marks.popleft() for _ in range(count)]
        self.returned += [ReturnedMark(name, received_s, now, cleared) for name, _, received_s in marks]
        return [name for name, _, _ in marks]
