"""Who waits for a slot, in the order in which they came.

A caller who waits is heard of again and again, because Twilio asks for the wait page each time that it has run out; so
a call of which nothing has been heard for `HEARD_WITHIN_S` has left, though nobody said so. `now` is in seconds,
monotonic.
"""

from app.twilio.events import CallSid

PAUSE_S = 4
"""How long one wait page lasts: less than our web server keeps an idle connection open, which is five seconds."""
HEARD_WITHIN_S = 20.0
"""How long Twilio may take to ask for the next one."""


class WaitingCallers:
    """The calls in line, at most `longest` of them."""

    def __init__(self, longest: int, heard_within_s: float = HEARD_WITHIN_S) -> None:
        self._longest = longest
        self._heard_within_s = heard_within_s
        self._heard_s: dict[CallSid, float] = {}  # first in line first

    def __len__(self) -> int:
        return len(self._heard_s)

    def __contains__(self, call_sid: CallSid) -> bool:
        return call_sid in self._heard_s

    def join(self, call_sid: CallSid, now: float) -> bool:
        """Put a call at the end, or note that one in line waits still; False when the line is full."""
        self._forget_the_gone(now)
        if call_sid not in self._heard_s and len(self._heard_s) >= self._longest:
            return False
        self._heard_s[call_sid] = now  # keeps its place
        return True

    def leave(self, call_sid: CallSid) -> None:
        """Take a call out of the line, if it is in it."""
        self._heard_s.pop(call_sid, None)

    def call_next(self, now: float) -> CallSid | None:
        """Take the first in line out of it; None when nobody waits."""
        self._forget_the_gone(now)
        first = next(iter(self._heard_s), None)
        if first is not None:
            del self._heard_s[first]
        return first

    def _forget_the_gone(self, now: float) -> None:
        for call_sid in [sid for sid, heard_s in self._heard_s.items() if now - heard_s > self._heard_within_s]:
            del self._heard_s[call_sid]
