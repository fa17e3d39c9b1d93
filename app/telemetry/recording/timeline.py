"""Where on a recording each sound belongs: mu-law in, places out, no I/O and no clock.

Both sides lie on our clock as packets arrive; the recording begins with the stream. Places are samples, at 8 kHz for a
phone and 24 kHz for a chat. No place is given out twice, except what is cleared.

The caller's packet belongs where its timestamp says, plus the least delay seen in the last `WINDOW_S` seconds in which
packets came: a stall does not shift what was said. A line that has become slower is believed after that time, a faster
one at once, because nothing arrives early. After a pause it is believed within `BURST_S`, in which a stall would have
brought what was missing: the timestamps of a chat count what its client sends. The estimate varies a little, and a
recording that followed it closely would crackle: a side goes on where it ended as long as that is true to a
millisecond.

Moshi's audio belongs where it will be heard (`SendAudio.heard_s`). Where that estimate turns out to have been too late,
what follows loses its beginning, but no piece more than half of itself.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from app.audio.mulaw import SAMPLE_RATE_HZ, SILENCE

WINDOW_S = 5
PAUSE_S, BURST_S = 0.25, 0.5


class Channel(IntEnum):
    """The channels: left and right."""

    CALLER = 0
    MOSHI = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Mu-law that begins at sample `begin` of one channel."""

    channel: Channel
    begin: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.begin + len(self.payload)


class Timeline:
    """One stream from `start_s` on, in seconds of our clock."""

    def __init__(self, start_s: float, rate_hz: int = SAMPLE_RATE_HZ) -> None:
        self._start_s, self._rate_hz, self._tolerance = start_s, rate_hz, rate_hz // 1_000
        self._ends = dict.fromkeys(Channel, 0)
        self._offset: int | None = None
        """Where the zero of the caller's timestamps is."""
        self._next = 0
        self._second = -1
        self._arrived_s, self._resumed_s = -math.inf, math.inf
        self._least: deque[int] = deque(maxlen=WINDOW_S)
        """The least offset of a packet in this second of our clock, the last, and in those before it."""

    def place_inbound(self, begin: int, arrived_s: float, payload: bytes) -> list[Piece]:
        """Place the caller's packet that begins at sample `begin` of its own clock."""
        offset = self._least_offset(self.at(arrived_s) - begin - len(payload), arrived_s)
        if self._offset is None or abs(offset - self._offset) > self._tolerance:
            self._offset = offset
        if abs(begin - self._next) <= self._tolerance:  # a rounded timestamp
            begin = self._next
        self._next = begin + len(payload)
        return self._place(Channel.CALLER, begin + self._offset, payload)

    def place_outbound(self, payload: bytes, heard_s: float) -> list[Piece]:
        """Place Moshi's audio that is heard from `heard_s` on."""
        begin, end = self.at(heard_s), self._ends[Channel.MOSHI]
        if begin > end + self._tolerance:
            return self._place(Channel.MOSHI, begin, payload)
        cut = min(end - begin, len(payload) // 2) if begin < end - self._tolerance else 0
        return self._place(Channel.MOSHI, end, payload[cut:])

    def clear(self, at_s: float) -> list[Piece]:
        """Silence what of Moshi's audio had not been heard at this moment."""
        end = self._ends[Channel.MOSHI]
        begin = self._ends[Channel.MOSHI] = max(0, min(self.at(at_s), end))
        return [Piece(Channel.MOSHI, begin, bytes([SILENCE]) * (end - begin))] if end > begin else []

    def at(self, moment_s: float) -> int:
        """Return where a moment of our clock is, below 0 before the recording begins."""
        return round((moment_s - self._start_s) * self._rate_hz)

    def _least_offset(self, offset: int, arrived_s: float) -> int:
        if arrived_s - self._arrived_s > PAUSE_S:
            self._resumed_s = arrived_s
        if arrived_s - self._resumed_s > BURST_S:
            self._second, self._resumed_s = -1, math.inf
            self._least.clear()
        self._arrived_s, second = arrived_s, int(arrived_s)
        if second != self._second:
            self._least.append(offset)
            self._second = second
        self._least[-1] = min(self._least[-1], offset)
        return min(self._least)

    def _place(self, channel: Channel, begin: int, payload: bytes) -> list[Piece]:
        """Return the part of a payload whose place is not given out yet."""
        late = max(0, self._ends[channel] - begin)
        if late >= len(payload):
            return []
        self._ends[channel] = begin + len(payload)
        return [Piece(channel, begin + late, payload[late:])]
