"""What a stream does while its pipeline is lost: whether it waits or is being resumed, and the frames that it keeps.

Frames of the caller's are added to `UnreadFrames` in the order of their numbers and leave when the step that read them
has come back (`read`): those that are still there are what a pipeline that is lost takes with it. While they are on
`hold` none is sent; the last `GAP_FRAMES` are kept. `gap` gives those, which go along with a `Resume`; what the caller
says from then on is sent as it comes. The pipeline keeps the last of it until it can `go_live`, and steps faster than
they speak until it has caught up. What it answers meanwhile `is_late`. Time is an argument.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from app.calls.leg import SendFrame
from app.calls.record import CallRecord, Gap
from workers.messages import GAP_FRAMES, Epoch, Resumed, Slot

MOST_SENT = 128
"""Frames that may be on their way through the workers, ten seconds; of more, the oldest are forgotten."""
ON_TIME = 3
"""So many frames may be on their way when the answer to the first of them is still in time."""


@dataclass(frozen=True, slots=True)
class OpenCall:
    """Open the call in the pipeline, with so many frames of greeting."""

    greeting_frames: int


@dataclass(frozen=True, slots=True)
class ResumeCall:
    """Have the pipeline go on with the conversation within `budget_s`; `gap` follows it, the first is `seq`."""

    seq: int
    gap: tuple[SendFrame, ...]
    budget_s: float


@dataclass(frozen=True, slots=True)
class Suspended:
    """Moshi does not hear the caller from now on; `anew`: the call, which was not live, will be opened anew."""

    reason: str
    anew: bool


@dataclass(frozen=True, slots=True)
class GapOver:
    """Moshi hears the caller again."""

    gap: Gap


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
            is_behind = self.next_seq < self._patience_seq and self.next_seq - seq > ON_TIME
            self._audible_seq, self._patience_seq = (seq + 1, self._patience_seq) if is_behind else (0, 0)
        return seq < self._audible_seq


class Suspension:
    """Of one stream; if it `goes_on`, the next pipeline goes on with the conversation, else it opens the call anew."""

    def __init__(self, record: CallRecord, first_seq: int, goes_on: bool) -> None:
        """Of a stream that `goes_on` from the beginning the call had one before, which has ended."""
        self.unread = UnreadFrames(first_seq)
        self.goes_on = goes_on
        self._record = record
        self._resumed = Resumed(Slot(0), Epoch(0), 0, 0)
        if goes_on and record.ended_s is not None:
            record.on_gap(str(record.end), record.ended_s)
        self.since_s: float | None = None
        """Since when the call waits; None while it does not."""
        self.until_s = math.inf
        """When it has waited for too long."""
        self.loss = ""
        self.is_open = False
        """Whether the call is in a pipeline."""

    def begin(self, reason: str, now: float, within_s: float, is_live: bool) -> None:
        """The pipeline is lost; a call that waits already keeps its time."""
        self.goes_on |= is_live and self.is_open
        self.is_open, self.loss = False, reason
        self._hold(now, within_s)
        if self.goes_on:
            self._record.on_gap(reason, now)

    def attach(self, now: float, within_s: float, budget_s: float, greeting_frames: int) -> OpenCall | ResumeCall:
        self.is_open = True
        if not self.goes_on:
            self.end()
            self.unread.discard()
            return OpenCall(greeting_frames)
        self._hold(now, within_s)
        gap = self.unread.gap()
        return ResumeCall(self.unread.next_seq - len(gap), tuple(gap), budget_s)

    def handle_resumed(self, resumed: Resumed) -> None:
        self._resumed = resumed
        self.end()

    def end_gap(self, now: float) -> list[GapOver]:
        """Return that the caller is heard, unless the pipeline is still waited for or they were not unheard."""
        if self.since_s is not None or not self.goes_on:
            return []
        gap = self._record.on_resumed(self._resumed.steps, self._resumed.left_out, now)
        return [GapOver(gap)] if gap else []

    def end(self) -> None:
        """The call waits no more."""
        self.since_s, self.until_s = None, math.inf

    def _hold(self, now: float, within_s: float) -> None:
        self.unread.hold()
        if self.since_s is None:
            self.since_s, self.until_s = now, now + within_s
