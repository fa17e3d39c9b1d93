"""Where on a recording each sound belongs: mu-law in, places out, no I/O and no clock.

Theory of operation. Both sides are laid down on our clock as packets arrive; the recording begins with the stream.

Caller. A packet belongs where his clock says, later by what the line takes at least: a stall does not shift what he
said. What the line takes is the least that was seen in the last `SURE_SECONDS` in which something came; a line that has
become slower is known by then, one that has become faster at once, for nothing arrives early. That is an estimate which
sways, and a recording that followed it closely would crackle, so a side goes on where it ended as long as that is true
to `TRUE_SAMPLES`.

Moshi. His audio belongs where it will be heard, as far as that is known (`SendAudio.heard_s`). Where the estimate
turns out to have been too late, the audio that follows loses its beginning, but no piece more than half of itself.
What is cleared in Twilio's buffer becomes silence.

Places are in samples at 8 kHz. No place is given out twice but for what is cleared.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from app.audio.mulaw import SAMPLE_RATE_HZ, SILENCE

TRUE_SAMPLES = 8
"""A millisecond: what a place may be off before it is put right."""
SURE_SECONDS = 5
FAR = 1 << 62


class Side(IntEnum):
    """The channels: left and right."""

    CALLER = 0
    MOSHI = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Mu-law that begins at sample `begin` of one side."""

    side: Side
    begin: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.begin + len(self.payload)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Make one piece of those of a side that follow each other without a gap."""
    runs: list[list[Piece]] = []
    last: dict[Side, list[Piece]] = {}
    for piece in pieces:
        run = last.get(piece.side)
        if run and run[-1].end == piece.begin:
            run.append(piece)
        else:
            last[piece.side] = [piece]
            runs.append(last[piece.side])
    return [Piece(run[0].side, run[0].begin, b"".join(piece.payload for piece in run)) for run in runs]


class Timeline:
    """One call from `zero_s` on, in seconds of our clock."""

    def __init__(self, zero_s: float) -> None:
        self._zero_s = zero_s
        self._ends = dict.fromkeys(Side, 0)
        self._offset: int | None = None
        """Where the zero of the caller's clock is."""
        self._second = -1
        self._least_now = self._least_before = FAR
        """The least offset that a packet showed in this second of our clock, and in those of `_least` before it."""
        self._least: deque[int] = deque(maxlen=SURE_SECONDS - 1)
        self._next = 0

    def hear(self, begin: int, arrived_s: float, payload: bytes) -> list[Piece]:
        """Place the caller's packet that begins at sample `begin` of his clock."""
        wanted = self._least_offset(self.at(arrived_s) - begin - len(payload), int(arrived_s))
        if self._offset is None or abs(wanted - self._offset) > TRUE_SAMPLES:
            self._offset = wanted
        if abs(begin - self._next) <= TRUE_SAMPLES:  # a rounded timestamp
            begin = self._next
        self._next = begin + len(payload)
        return self._put(Side.CALLER, begin + self._offset, payload)

    def say(self, payload: bytes, heard_s: float) -> list[Piece]:
        """Place Moshi's audio that is heard from `heard_s` on."""
        late = self._ends[Side.MOSHI] - self.at(heard_s)
        cut = 0 if late <= TRUE_SAMPLES else min(late, len(payload) // 2)
        begin = self.at(heard_s) if late < -TRUE_SAMPLES else self._ends[Side.MOSHI]
        return self._put(Side.MOSHI, begin, payload[cut:])

    def clear(self, at_s: float) -> list[Piece]:
        """Silence what of Moshi's audio had not been heard at this moment."""
        begin, end = min(self.at(at_s), self._ends[Side.MOSHI]), self._ends[Side.MOSHI]
        begin = self._ends[Side.MOSHI] = max(begin, 0)
        return [Piece(Side.MOSHI, begin, bytes([SILENCE]) * (end - begin))] if end > begin else []

    def at(self, moment_s: float) -> int:
        """Return where a moment of our clock is, below 0 before the recording begins."""
        return round((moment_s - self._zero_s) * SAMPLE_RATE_HZ)

    def _least_offset(self, offset: int, second: int) -> int:
        """Return the least offset of the last seconds, this packet's included."""
        if second != self._second:
            self._least.append(self._least_now)
            self._least_before, self._least_now, self._second = min(self._least), offset, second
        elif offset < self._least_now:
            self._least_now = offset
        return min(self._least_before, self._least_now)

    def _put(self, side: Side, begin: int, payload: bytes) -> list[Piece]:
        """Give out a place, less what is taken already."""
        taken = max(0, self._ends[side] - begin)
        if taken >= len(payload):
            return []
        self._ends[side] = begin + len(payload)
        return [Piece(side, begin + taken, payload[taken:])]
