"""How much audio Twilio's buffer still has to play.

Theory. Audio that arrives is played when the audio before it ends, or at once when there is none; so its end can be
predicted from when it was sent. A mark behind it comes back when it has been played. Both are on our clock, and between
them lies the line's round trip: the least time ever seen between sending audio and the return of its mark, less the
audio's own length. Only what finds the buffer empty shows it: a mark sent before the first audio of a call, and that
audio.

A mark can come back late (the line, our own event loop) but not early, so it lowers the prediction at once and raises
it only when three in a row say so. It is compared with the prediction for the audio before it, since audio that was
sent later may follow with a gap.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from app.audio.mulaw import SAMPLE_RATE_HZ

CONFIRMING_MARKS = 3
AGREES_S = 0.005
MARKS_KEPT = 64
"""Marks that may be out: at least ten seconds' worth. A line that returns none must not cost memory."""
FIRST_JITTER_S = 0.001
JITTER_MEMORY_S = 60.0
SAME_EVENT_S = 1.0
"""Frames that are late within so short a time have one cause."""


@dataclass
class PlayoutBuffer:
    """Predicts the playout of one call; `now` in seconds, audio in samples at 8 kHz."""

    round_trip_s: float = 0.0
    _end_s: float | None = None
    _shifted_s: float = 0.0
    """By how much the prediction has been corrected so far."""
    _known: bool = False
    _last: tuple[float, int] | None = None
    """The last audio: when it was sent, how many samples."""
    _marks: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    """Of each mark still out: its return if the round trip were 0, and its return as predicted less `_shifted_s`."""
    _later_s: deque[float] = field(default_factory=lambda: deque(maxlen=CONFIRMING_MARKS))
    _agreeing: int = 0
    """How many of the last marks in a row came back as predicted."""
    _number: int = 0

    @property
    def known_round_trip_s(self) -> float | None:
        """The round trip, None until a mark has shown it: it is taken to be 0 until then."""
        return self.round_trip_s if self._known else None

    def buffered_s(self, now: float) -> float:
        """Return what audio sent now finds unplayed when it arrives; below 0 by how much it is too late."""
        return 0.0 if self._end_s is None else self._end_s - now - self.round_trip_s

    def send(self, samples: int, now: float) -> None:
        self._end_s = now + self.round_trip_s + max(0.0, self.buffered_s(now)) + samples / SAMPLE_RATE_HZ
        self._last = (now, samples)

    def mark(self, now: float) -> int:
        """Count a mark that is sent now, behind all audio so far; return its number."""
        sent_s, samples = self._last or (now, 0)
        earliest_s = max(now, sent_s + samples / SAMPLE_RATE_HZ)
        predicted_s = None if self._end_s is None else self._end_s - self._shifted_s
        self._number += 1
        self._marks[self._number] = (earliest_s, predicted_s)
        self._marks.pop(self._number - MARKS_KEPT, None)
        return self._number

    def handle_mark(self, number: int, now: float) -> None:
        if number not in self._marks:
            return
        earliest_s, predicted_s = self._marks[number]
        for earlier in [mark for mark in self._marks if mark <= number]:
            del self._marks[earlier]
        self._add_round_trip(now - earliest_s)
        if predicted_s is not None:
            self._correct(now - predicted_s - self._shifted_s)

    def is_certain(self, now: float) -> bool:
        """Tell whether the last marks came back as predicted, and none that is out is late."""
        _, predicted_s = next(iter(self._marks.values()), (0.0, None))
        late = predicted_s is not None and now - predicted_s - self._shifted_s > AGREES_S
        return self._agreeing >= CONFIRMING_MARKS and not late

    def clear(self, now: float) -> None:
        """Count an order to clear the buffer that is sent now."""
        self._end_s = now + self.round_trip_s
        self._marks.clear()
        self._later_s.clear()
        self._agreeing = 0

    def _add_round_trip(self, least_s: float) -> None:
        if self._known:
            self.round_trip_s = max(0.0, min(self.round_trip_s, least_s))
            return
        self.round_trip_s, self._known = max(0.0, least_s), True
        if self._end_s is not None:
            self._shift(self.round_trip_s)

    def _correct(self, later_s: float) -> None:
        self._agreeing = self._agreeing + 1 if abs(later_s) <= AGREES_S else 0
        self._later_s.append(later_s)
        if later_s < 0 or len(self._later_s) == CONFIRMING_MARKS:
            shift_s = later_s if later_s < 0 else max(0.0, min(self._later_s))
            self._shift(shift_s)
            self._later_s = deque((other - shift_s for other in self._later_s), maxlen=CONFIRMING_MARKS)

    def _shift(self, later_s: float) -> None:
        assert self._end_s is not None
        self._end_s += later_s
        self._shifted_s += later_s


class Jitter:
    """How much later than on average a frame must be expected: `jitter_s`.

    The second largest lateness of the last minute; frames that are late in a row are one event, and a single stall is
    not jitter. In its first minute a call has not shown all yet: at least `first_s` is expected.
    """

    def __init__(self, first_s: float = FIRST_JITTER_S) -> None:
        self.jitter_s = self._first_s = first_s
        self._first_until_s = math.inf
        self._events: deque[tuple[float, float]] = deque()
        self._last_s = -SAME_EVENT_S

    def add(self, late_s: float, now: float) -> None:
        """Add by how much a frame was later than the average; below 0 if it was early."""
        self._first_until_s = min(self._first_until_s, now + JITTER_MEMORY_S)
        while self._events and self._events[0][0] < now - JITTER_MEMORY_S:
            self._events.popleft()
        if now - self._last_s < SAME_EVENT_S and self._events:
            started_s, so_far_s = self._events.pop()
            self._events.append((started_s, max(so_far_s, late_s)))
        else:
            self._events.append((now, max(0.0, late_s)))
            self._last_s = now
        *_, second_s, _ = sorted([0.0, *(late_s for _, late_s in self._events)])
        self.jitter_s = max(second_s, self._first_s if now < self._first_until_s else 0.0)
