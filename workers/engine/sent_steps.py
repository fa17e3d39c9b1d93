"""The last steps of a call as they were sent on: what a decoder that is lost takes with it."""

from collections import deque
from dataclasses import replace

from workers.messages import Codes

MOST_SENT = 128
"""More than can be under way to the app: the steps of a greeting, and about 5 s."""


class SentSteps:
    """Of a call that has made `count` steps, of which the model has forgotten the first `left_out`."""

    def __init__(self, count: int = 0, left_out: int = 0) -> None:
        self.count, self.left_out = count, left_out
        self._last: deque[Codes] = deque(maxlen=MOST_SENT)

    @property
    def last_seq(self) -> int:
        """The number of the caller's frame that was read last, -1 if it is not known."""
        return self._last[-1].seq if self._last else -1

    def add(self, step: Codes) -> None:
        """Add a step; one without tokens, the line test's, is in no log."""
        if step.tokens:
            self.count += 1
            self._last.append(step)

    def after(self, count: int, tokens: bytes) -> list[Codes] | None:
        """Return the steps behind the first `count`, the last of which has these `tokens`, to be sent again.

        None if that step was another, or if they are not all kept.
        """
        kept = [*self._last]
        first = len(kept) - (self.count - count)
        if not 0 <= first <= len(kept) or (first and kept[first - 1].tokens != tokens):
            return None
        return [replace(step, spans=()) for step in kept[first:]]
