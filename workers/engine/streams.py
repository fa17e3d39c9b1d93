"""Which token is read at which step: the delays.

Theory. A step of Moshi reads one text token and 16 codes, Moshi's own 8 and the caller's 8, and yields one text token
and 8 codes of its own. Codebook c runs `delay[c]` steps late: the code of frame f belongs to step f + delay[c]. So at
step p

    text          is read as sampled in step p-1 (a start token at p = 0);
    own codes     are read as sampled in step p-1: codebook c read there is the code of frame p-1-delay[c];
    caller codes  of codebook c are those of frame p-delay[c].

A code of a frame that does not exist is the padding token: Moshi's frames begin at 0 (so padding while p-1 < delay[c]),
the caller's at 1 (padding while p <= delay[c]). His frame 0 is never read, as in Kyutai's PyTorch `LMGen`, which writes
the caller's codes at `offset + delay`, reads at `offset`, and pads while `offset <= delay`: the frame that has just
arrived is read in its own step. moshi_mlx and the Rust server read `step - 1 - delay` for all 16, one step (80 ms)
later for the same alignment. Hence: step p here is step p of the official `moshi_mlx.models.LmGen` fed with
y[p] = x[p+1].

Frame f of Moshi's is complete when its slowest codebook has been sampled: step p yields frame p - max(delay),
codebook c of which was sampled in step p - max(delay) + delay[c]. The first max(delay) steps yield nothing.

Nothing older than max(delay) steps is ever read, so each stream is kept in max(delay) + 1 columns, by step modulo their
number.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.messages import CODEBOOKS, CodeArray, Slot

Tokens = NDArray[np.int32]
LogArray = NDArray[np.int32]
"""One step as it is kept, shape (17,): the text token and the eight codes sampled in it, the caller's eight codes."""

TEXT_END_OF_PADDING = 0
"""A word follows in the next step."""
TEXT_PADDING = 3
"""No word now."""


class Streams:
    """The few tokens that each row of the batch still needs, on the host."""

    def __init__(self, slots: int, delays: Sequence[int], text_start: int, padding: int) -> None:
        """Make `slots` rows; `delays` are those of the 16 codebooks in steps, Moshi's own first."""
        self._own_delay = np.array(delays[:CODEBOOKS])
        self._caller_delay = np.array(delays[CODEBOOKS:])
        self._text_start, self._padding = text_start, padding
        self._columns = max(delays) + 1
        self._wait = max(delays[:CODEBOOKS])
        self._all = np.arange(slots)[:, None]
        self._codebooks = np.arange(CODEBOOKS)
        self.position = np.zeros(slots, np.int32)
        self._text = np.full(slots, text_start, np.int32)
        self._own = np.zeros((slots, self._columns, CODEBOOKS), np.int32)
        self._caller = np.zeros((slots, self._columns, CODEBOOKS), np.int32)

    def open(self, slot: Slot) -> None:
        """Begin again at step 0; the guards on the position hide what the last call left."""
        self.position[slot] = 0
        self._text[slot] = self._text_start

    def hear(self, codes: Mapping[Slot, CodeArray]) -> None:
        """Take the caller's frames of this step."""
        for slot, frame in codes.items():
            self._caller[slot, self.position[slot] % self._columns] = frame

    def read(self, rows: int) -> Tokens:
        """Return what the first `rows` rows read in this step, shape (rows, 17): text, own codes, caller codes."""
        at = self.position[:rows, None]
        row = self._all[:rows]
        own = self._own[row, (at - 1) % self._columns, self._codebooks]
        caller = self._caller[row, (at - self._caller_delay) % self._columns, self._codebooks]
        own = np.where(at - 1 >= self._own_delay, own, self._padding)
        caller = np.where(at > self._caller_delay, caller, self._padding)
        return np.concatenate([self._text[:rows, None], own, caller], axis=1, dtype=np.int32)

    def advance(self, slot: Slot, text: int, own: CodeArray) -> CodeArray | None:
        """Take what was sampled in this step; return the frame it completes, shape (8,), or None for the first ones."""
        at = int(self.position[slot])
        self._own[slot, at % self._columns] = own
        self._text[slot] = text
        self.position[slot] = at + 1
        frame = at - self._wait
        if frame < 0:
            return None
        completed: CodeArray = self._own[slot, (frame + self._own_delay) % self._columns, self._codebooks]
        return completed
