"""The caller's frames that Moshi has not read yet, as far as is known: what a pipeline that is lost takes with it.

Frames are `add`ed in the order of their numbers and leave when the step that read them has come back (`read`). While
they are on `hold` none is sent; the last `KEPT_FRAMES` are kept. `gap` gives those, which go along with a `Resume`;
what the caller says from then on is sent as it comes. The pipeline keeps the last of it until it can `go_live`, and
steps faster than they speak until it has caught up. What it answers meanwhile `is_late`.
"""

from collections import deque
from collections.abc import Sequence

from app.calls.leg import SendFrame
from workers.messages import GAP_FRAMES

MOST_SENT = 128
"""Frames that may be on their way through the workers, ten seconds; of more, the oldest are forgotten."""
KEPT_FRAMES = 12
"""How much of what the caller says while there is no pipeline is heard afterwards: about a second. Nothing comes out of
the next pipeline until its encoder has read it.
"""
ON_TIME = 3
"""So many frames may be on their way when the answer to the first of them is still in time."""


class UnreadFrames:
    """Those of one stream, whose first one has the number `next_seq`."""

    def __init__(self, next_seq: int) -> None:
        self.next_seq = next_seq
        self.is_held = False
        self._audible_seq = 0
        """The first frame whose answer may be heard."""
        self._patience_seq = 0
        """The first frame whose answer is heard even if the pipeline is late, as then it always is."""
        self._sent: deque[SendFrame] = deque(maxlen=MOST_SENT)
        self._waiting: deque[SendFrame] = deque(maxlen=KEPT_FRAMES)

    def add(self, frames: Sequence[SendFrame]) -> Sequence[SendFrame]:
        """Add the next frames; return those to send now."""
        if not frames:
            return frames
        self.next_seq = frames[-1].seq + 1
        (self._waiting if self.is_held else self._sent).extend(frames)
        return [] if self.is_held else frames

    def read(self, seq: int) -> list[SendFrame]:
        """Return the frames up to this one, which has been read; those before it that were dropped included."""
        frames: list[SendFrame] = []
        while self._sent and self._sent[0].seq <= seq:
            frames.append(self._sent.popleft())
        return frames

    def hold(self) -> None:
        """Send no more: the pipeline is lost, and with it all that it has not answered."""
        self.is_held = True
        self._waiting = deque([*self._sent, *self._waiting], KEPT_FRAMES)
        self._sent.clear()

    def gap(self) -> list[SendFrame]:
        """Return the frames of the gap so far, which are sent now; from now on each is sent as it comes."""
        frames = [*self._waiting]
        self._sent.extend(frames)
        self.discard()
        return frames

    def discard(self) -> None:
        """Forget those that wait; from now on each frame is sent as it comes."""
        self.is_held = False
        self._waiting.clear()

    def go_live(self) -> None:
        """The pipeline is back, and steps what it has kept."""
        self._audible_seq, self._patience_seq = self.next_seq, self.next_seq + GAP_FRAMES

    def is_late(self, seq: int) -> bool:
        """Tell whether the answer to a frame, which has come now, is not to be heard: it would be late, and all later
        ones with it.
        """
        if seq >= self._audible_seq:
            is_behind = seq < self._patience_seq and self.next_seq - seq > ON_TIME
            self._audible_seq, self._patience_seq = (seq + 1, self._patience_seq) if is_behind else (0, 0)
        return seq < self._audible_seq
