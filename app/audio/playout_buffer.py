"""How far Twilio's buffer is ahead of what it has played.

Theory. Audio that arrives is played when the audio before it ends, or at once when there is none; so its end can be
foretold from when it was sent. A mark behind it comes back when it has been played. Both are told on our clock, and
between them lies the round trip of the line, which is the least time ever seen between sending audio and the return of
its mark, less the audio's own length. Only what finds the buffer empty shows it: a mark sent before the first audio of
a call, and that audio.

A mark is news that can come late (the line, our own event loop) but not early, so it lowers the forecast at once and
raises it only when three in a row say so. It is held against what was foretold for the audio before it, since what was
sent after that may follow with a gap.
"""

from collections import deque
from dataclasses import dataclass, field

RATE_HZ = 8_000
SURE_MARKS = 3
AGREES_S = 0.005
ROUNDING_S = 1e-6
MARKS_KEPT = 64
"""Marks that may be out: at least ten seconds' worth. A line that returns none must not cost memory."""
FIRST_JITTER_S = 0.001
JITTER_MEMORY_S = 60.0
ONE_EVENT_S = 1.0
"""Frames late within so short a time have one cause."""


@dataclass
class PlayoutBuffer:
    """Foretells the play-out of one call; `now` in seconds, audio in samples at 8 kHz."""

    round_trip_s: float = 0.0
    underruns: int = 0
    """How often audio came too late, by however little."""
    _end_s: float | None = None
    _shifted_s: float = 0.0
    """By how much the forecast has been corrected so far."""
    _known: bool = False
    _last: tuple[float, int] | None = None
    """The last audio: when it was sent, how many samples."""
    _marks: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    """Of each mark still out: its return if the round trip were 0, and its return as foretold less `_shifted_s`."""
    _later_s: deque[float] = field(default_factory=lambda: deque(maxlen=SURE_MARKS))
    _agreeing: int = 0
    """How many of the last marks in a row came back as foretold."""
    _number: int = 0

    @property
    def known_round_trip_s(self) -> float | None:
        """The round trip, None until a mark has shown it: it is taken to be 0 until then."""
        return self.round_trip_s if self._known else None

    def buffered_s(self, now: float) -> float:
        """Return what audio sent now would find unplayed when it arrives; below 0 by how much it would be too late."""
        return 0.0 if self._end_s is None else self._end_s - now - self.round_trip_s

    def send(self, samples: int, now: float) -> None:
        """Count audio that goes out now."""
        buffered_s = self.buffered_s(now)
        self.underruns += self._end_s is not None and buffered_s < -ROUNDING_S
        self._end_s = now + self.round_trip_s + max(0.0, buffered_s) + samples / RATE_HZ
        self._last = (now, samples)

    def mark(self, now: float) -> int:
        """Count a mark that goes out now, behind all audio so far; return its number."""
        sent_s, samples = self._last or (now, 0)
        earliest_s = max(now, sent_s + samples / RATE_HZ)
        foretold_s = None if self._end_s is None else self._end_s - self._shifted_s
        self._number += 1
        self._marks[self._number] = (earliest_s, foretold_s)
        self._marks.pop(self._number - MARKS_KEPT, None)
        return self._number

    def mark_returned(self, number: int, now: float) -> None:
        """Take a mark that has come back."""
        if number not in self._marks:
            return
        earliest_s, foretold_s = self._marks[number]
        for earlier in [mark for mark in self._marks if mark <= number]:
            del self._marks[earlier]
        self._note_round_trip(now - earliest_s)
        if foretold_s is not None:
            self._correct(now - foretold_s - self._shifted_s)

    def certain(self, now: float) -> bool:
        """Tell whether the last marks came back as foretold, and none that is out is late."""
        _, foretold_s = next(iter(self._marks.values()), (0.0, None))
        late = foretold_s is not None and now - foretold_s - self._shifted_s > AGREES_S
        return self._agreeing >= SURE_MARKS and not late

    def clear(self, now: float) -> None:
        """Note that the buffer is being emptied."""
        self._end_s = now + self.round_trip_s
        self._marks.clear()
        self._later_s.clear()
        self._agreeing = 0

    def _note_round_trip(self, least_s: float) -> None:
        before_s = self.round_trip_s
        self.round_trip_s = max(0.0, min(before_s, least_s) if self._known else least_s)
        if not self._known and self._end_s is not None:
            self._shift(self.round_trip_s - before_s)
        self._known = True

    def _correct(self, later_s: float) -> None:
        self._agreeing = self._agreeing + 1 if abs(later_s) <= AGREES_S else 0
        self._later_s.append(later_s)
        if later_s < 0 or len(self._later_s) == SURE_MARKS:
            shift_s = later_s if later_s < 0 else max(0.0, min(self._later_s))
            self._shift(shift_s)
            self._later_s = deque((other - shift_s for other in self._later_s), maxlen=SURE_MARKS)

    def _shift(self, later_s: float) -> None:
        assert self._end_s is not None
        self._end_s += later_s
        self._shifted_s += later_s


class Jitter:
    """How much later than on average a frame must be expected to come.

    The second largest lateness of the last minute, late frames in a row being one event: what happens once (a stall)
    is not the line's habit. A call that is younger than a minute has not shown all yet: it may sway by `first_s`.
    """

    def __init__(self, first_s: float = FIRST_JITTER_S) -> None:
        """Expect `first_s` at least until there is a minute to go by."""
        self._first_s = first_s
        self._began_s: float | None = None
        self._events: deque[tuple[float, float]] = deque()
        self._last_s = -ONE_EVENT_S

    @property
    def size_s(self) -> float:
        """The lateness to expect, in seconds."""
        sizes = sorted(late_s for _, late_s in self._events)
        return max(self._first_s, sizes[-2] if len(sizes) > 1 else 0.0)

    def note(self, late_s: float, now: float) -> None:
        """Take by how much a frame was later than the average; below 0 if it was early."""
        if self._began_s is None:
            self._began_s = now
        if now - self._began_s >= JITTER_MEMORY_S:
            self._first_s = 0.0
        while self._events and self._events[0][0] < now - JITTER_MEMORY_S:
            self._events.popleft()
        if now - self._last_s < ONE_EVENT_S and self._events:
            began_s, so_far_s = self._events.pop()
            self._events.append((began_s, max(so_far_s, late_s)))
        else:
            self._events.append((now, max(0.0, late_s)))
            self._last_s = now
