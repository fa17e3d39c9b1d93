"""The past of calls that come back runs through the codec again.

All calls that come back are one batch. None takes longer than about `REPLAY_S`: once a few batches have been timed,
each leaves out so much of its past that the rest fits.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from workers.checkpoints.files import ReportProgress
from workers.codec.codec import Codec, CodecError, Row
from workers.messages import Slot

REPLAY_S = 1.0
TIMED = 3
"""Batches whose median counts."""
OVERRUN = 1.3
"""How much too long the rest may be before some of it is left out: a single slow batch leaves out nothing."""


@dataclass(slots=True)
class Replay:
    """The past of one call, PCM (frames, 1920) or codes (frames, 8): what comes of all but the last `wanted` is lost.

    `done` frames were replayed or left out. With an `error` the call must end.
    """

    slot: Slot
    frames: Row
    wanted: int
    until_s: float
    done: int = 0
    left_out: int = 0
    results: list[Row] = field(default_factory=list)
    error: CodecError | None = None

    @property
    def over(self) -> bool:
        return self.error is not None or self.done == len(self.frames)

    def leave_out(self, fitting: int) -> None:
        """Go on later in the past if much more is left than the frames that fit in."""
        rest = len(self.frames) - self.done
        if rest > OVERRUN * fitting + 1:
            left_out = max(0, rest - max(fitting, self.wanted))
            self.done += left_out
            self.left_out += left_out

    def add(self, result: Row | CodecError) -> None:
        """Handle what came of the next frame."""
        if isinstance(result, CodecError):
            self.error = result
        elif self.done >= len(self.frames) - self.wanted:
            self.results.append(result.copy())
        self.done += 1


class ReplayBatch:
    """The calls whose past is replayed; their slots of the `codec` are open.

    Nothing comes out of the pipeline meanwhile, for as long as a worker may hang: each batch is reported as progress.
    """

    def __init__(self, codec: Codec, clock: Callable[[], float], progress: ReportProgress) -> None:
        self._codec, self._clock, self._progress = codec, clock, progress
        self._replays: dict[Slot, Replay] = {}
        self._took_s: deque[float] = deque(maxlen=TIMED)

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._replays

    def __bool__(self) -> bool:
        return bool(self._replays)

    @property
    def any_late(self) -> bool:
        return any(one.until_s <= self._clock() for one in self._replays.values())

    def add(self, slot: Slot, frames: Row, wanted: int = 0) -> None:
        """Replay frames, one at least, in an open slot."""
        self._replays[slot] = Replay(slot, frames, wanted, self._clock() + REPLAY_S)

    def remove(self, slot: Slot) -> None:
        self._replays.pop(slot, None)

    def work(self) -> list[Replay]:
        """Run the next frame of each; return those that are over."""
        if not self._replays:
            return []
        started_s = self._clock()
        results = self._codec.run({slot: one.frames[one.done] for slot, one in self._replays.items()})
        now = self._clock()
        self._took_s.append(now - started_s)
        for slot, one in self._replays.items():
            one.add(results[slot])
            if len(self._took_s) == TIMED and (took_s := median(self._took_s)):
                one.leave_out(int(max(0.0, one.until_s - now) / took_s))
        longest = max(self._replays.values(), key=lambda one: len(one.frames))
        self._progress("replaying calls", longest.done, len(longest.frames))
        over = [one for one in self._replays.values() if one.over]
        for one in over:
            del self._replays[one.slot]
        return over
