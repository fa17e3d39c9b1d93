"""The caller's frames that Moshi has not read yet, as far as is known: what a pipeline that is lost takes with it.

Frames are `add`ed in the order of their numbers and leave when the step that read them has come back (`read`). While
they are on `hold` none is sent; the last `GAP_FRAMES` are kept, for a caller who has spoken for long must not be
answered late. `gap` are those that go along with a `Resume`, `release` gives those that have come since.
"""

from collections import deque
from collections.abc import Sequence

from app.calls.conversation import GAP_FRAMES
from app.calls.leg import SendFrame

MOST_SENT = 64
"""Frames that may be on their way through the workers; of more, the oldest are forgotten."""


class UnreadFrames:
    """Those of one stream, whose first one has the number `next_seq`."""

    def __init__(self, next_seq: int) -> None:
        self.next_seq = next_seq
        self.live_seq = 0
        """The first frame that was not kept: the answers to earlier ones come too late to be heard."""
        self.is_held = False
        self._sent: deque[SendFrame] = deque(maxlen=MOST_SENT)
        self._waiting: deque[SendFrame] = deque(maxlen=GAP_FRAMES)

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
        self._waiting = deque([*self._sent, *self._waiting], GAP_FRAMES)
        self._sent.clear()

    def gap(self) -> list[SendFrame]:
        """Return the frames of the gap so far, which are sent now; their numbers have no hole."""
        frames = [*self._waiting]
        self._sent.extend(frames)
        self._waiting.clear()
        return frames

    def discard(self) -> None:
        """Forget those that wait: the call begins now, and each frame is sent as it comes."""
        self.is_held = False
        self._waiting.clear()

    def release(self) -> list[SendFrame]:
        """Return the frames since then, which are sent now; from now on each is sent as it comes."""
        self.is_held = False
        self.live_seq = self.next_seq
        return self.gap()
