"""The clock of a simulated call."""

from collections.abc import Callable

from app.simulator.stream import CallerStream


class Realtime:
    """The clock on the wall; zero is when this object is made, times are seconds since then."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take a monotonic `clock` in seconds."""
        self._clock = clock
        self._zero_s = clock()

    def now_s(self, last_s: float) -> float:
        """Return the time, given the latest time that the call knows of."""
        return max(self._clock() - self._zero_s, last_s)

    def wait_s(self, stream: CallerStream) -> float:
        """Return how long to wait for a message until the stream has something to do."""
        return max(stream.due_s() - self.now_s(0.0), 0.0)
