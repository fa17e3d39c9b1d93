"""Which token is read at which step: the delay pattern of Kyutai's streams.

A step of Moshi reads one text token and 16 codes, Moshi's own 8 and the caller's 8, and samples one text token and 8
codes. Codebook c runs `delay[c]` steps late (Moshi 7B: 0 for codebook 0, 1 for the others): the code of frame f belongs
to step f + delay[c]. At step p

    text          is the token sampled in step p-1 (a start token at p = 0);
    own codes     were sampled in step p-1: codebook c is the code of frame p-1-delay[c];
    caller codes  of codebook c are those of frame p-delay[c].

A code of a frame that does not exist is the padding token. Moshi's frames begin at 0 (padding while p-1 < delay[c]),
the caller's at 1 (padding while p <= delay[c]): their frame 0 is never read, as in Kyutai's PyTorch `LMGen`, which
writes the caller's codes at `offset + delay`, reads at `offset` and pads while `offset <= delay`. So a frame is read in
the step it arrives for. moshi_mlx and the Rust server read `step - 1 - delay` for all 16, one step (80 ms) later for
the same alignment: step p here is step p of `moshi_mlx.models.LmGen` fed with y[p] = x[p+1].

Moshi's frame f is complete when its slowest codebook has been sampled: step p yields frame p - max(delay), codebook c
of which was sampled in step p - max(delay) + delay[c]. The first max(delay) steps yield nothing. Nothing older than
max(delay) steps is read, so each stream is kept in max(delay) + 1 columns, by step modulo their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from workers.messages import CODEBOOKS, STEP_TOKENS, CodeArray, Payload, Slot

Tokens = NDArray[np.int32]
LogArray = NDArray[np.int32]
"""One step, shape (17,): the text token and the eight codes sampled in it, the caller's eight codes."""

TEXT_END_OF_PADDING = 0
"""A word follows in the next step."""
TEXT_PADDING = 3
"""No word now."""


def parse_log(log: bytes) -> LogArray:
    """Return the steps of a log, 17 little-endian int16 each, as (steps, 17). Raises ValueError for half a step."""
    return np.frombuffer(log, "<i2").astype(np.int32).reshape(-1, STEP_TOKENS)


def serialize_log(steps: LogArray) -> bytes:
    return steps.astype("<i2").tobytes()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step of one call yields.

    `codes` is Moshi's frame, shape (8,), None for the first steps of a call. `log` are the tokens of the step, from
    which `Engine.prefill` rebuilds the call. With a `fault` the other fields mean nothing and the call must end.
    """

    text_token: int
    codes: Payload | None
    log: LogArray = field(default_factory=lambda: np.zeros(0, np.int32))
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a call begins whose KV cache holds a prompt of `position` steps; no delay may be above 1.

    Its first step reads `tokens` (17,), and `caller` in place of the caller's frame. `own`, both (8,), is Moshi's last
    frame of the prompt: its delayed codebooks take the place of those sampled in that step.
    """

    position: int
    tokens: LogArray
    own: CodeArray
    caller: CodeArray


class Streams:
    """The few tokens that each row of the batch still needs, on the host."""

    def __init__(self, slots: int, delays: Sequence[int], text_start: int, padding: int) -> None:
        """Make `slots` rows; `delays` are those of the 16 codebooks in steps, Moshi's own first."""
        self._own_delay = np.array(delays[:CODEBOOKS])
        self._caller_delay = np.array(delays[CODEBOOKS:])
        self._text_start, self._padding = text_start, padding
        self._columns = max(delays) + 1
        self._rows, self._codebooks = np.arange(slots)[:, None], np.arange(CODEBOOKS)
        self.position = np.zeros(slots, np.int32)
        self._text = np.full(slots, text_start, np.int32)
        self._own, self._caller = np.zeros((2, slots, self._columns, CODEBOOKS), np.int32)
        self._origin = np.zeros(slots, np.int32)
        """The position of each stream's beginning, below 0 by what `leave_out` was given."""
        self._beginnings: dict[Slot, Beginning] = {}

    def open(self, slot: Slot, beginning: Beginning | None = None) -> None:
        """Begin at step 0, or where a prompt ends; what the last call left is masked by the position."""
        self._beginnings.pop(slot, None)
        self.position[slot], self._text[slot], self._origin[slot] = 0, self._text_start, 0
        if beginning:
            self._beginnings[slot] = beginning
            self._open_after(slot, beginning.position, beginning.tokens)

    def _open_after(self, slot: Slot, at: int, tokens: LogArray) -> None:
        self.position[slot], self._text[slot] = at, tokens[0]
        self._own[slot, (at - 1) % self._columns] = tokens[1 : 1 + CODEBOOKS]
        self._caller[slot, (at - self._caller_delay) % self._columns, self._codebooks] = tokens[1 + CODEBOOKS :]

    def leave_out(self, slot: Slot, steps: LogArray, skipped: int = 0) -> None:
        """Pass over the first steps of a call just opened: `skipped` unknown ones and those in `steps`, (steps, 17).

        The position stays, so that the KV cache has no hole in their place.
        """
        if not (left_out := skipped + len(steps)):
            return
        self._text[slot], self._own[slot], self._caller[slot] = self._text_start, self._padding, self._padding
        self._origin[slot] -= left_out
        self.position[slot] -= len(steps)
        self.replay(slot, steps)

    def replay(self, slot: Slot, steps: LogArray) -> Tokens:
        """Advance by logged steps, (steps, 17); return the tokens that they read, of the same shape."""
        start, number, known = int(self.position[slot]), np.arange(len(steps))[:, None], np.arange(-self._columns, 0)
        columns = (start + known) % self._columns
        text = np.concatenate([self._text[slot : slot + 1], steps[:, 0]])
        own = np.concatenate([self._own[slot, columns], steps[:, 1 : 1 + CODEBOOKS]])
        caller = np.concatenate([self._caller[slot, columns], steps[:, 1 + CODEBOOKS :]])
        own_read = own[number[:, 0] + self._columns - 1]
        caller_read = caller[number + self._columns - self._caller_delay, self._codebooks]
        read = self._padded(text[number], own_read, caller_read, start + number - self._origin[slot])
        self.position[slot], self._text[slot] = start + len(steps), text[-1]
        columns = (start + len(steps) + known) % self._columns
        self._own[slot, columns], self._caller[slot, columns] = own[known], caller[known]
        return read

    def own_frames(self, log: LogArray) -> CodeArray:
        """Return Moshi's frames that are complete after the steps of a log, (frames, 8)."""
        frames = np.arange(max(0, len(log) - int(self._own_delay.max())))[:, None]
        complete: CodeArray = log[frames + self._own_delay, 1 + self._codebooks]
        return complete

    def write(self, slot: Slot, frame: CodeArray) -> CodeArray:
        """Set the caller's frame of this step; return it, or what the first step after a prompt reads instead."""
        if first := self._first_after_prompt(slot):
            frame = first.caller
        self._caller[slot, self.position[slot] % self._columns] = frame
        return frame

    def keep_delayed(self, slot: Slot, own: CodeArray) -> CodeArray:
        """Return the codes sampled in this step, those of the prompt's last frame replaced."""
        first = self._first_after_prompt(slot)
        return np.where(self._own_delay > 0, first.own, own) if first else own

    def read(self, rows: int) -> Tokens:
        """Return what the first `rows` rows read in this step, shape (rows, 17): text, own codes, caller codes."""
        at, row = self.position[:rows, None], self._rows[:rows]
        own = self._own[row, (at - 1) % self._columns, self._codebooks]
        caller = self._caller[row, (at - self._caller_delay) % self._columns, self._codebooks]
        return self._padded(self._text[:rows, None], own, caller, at - self._origin[:rows, None])

    def _padded(self, text: Tokens, own: Tokens, caller: Tokens, at: Tokens) -> Tokens:
        """Return tokens (n, 17) that are read `at` so many steps after the streams began, (n, 1)."""
        own = np.where(at - 1 >= self._own_delay, own, self._padding)
        caller = np.where(at > self._caller_delay, caller, self._padding)
        return np.concatenate([text, own, caller], axis=1, dtype=np.int32)

    def advance(self, slot: Slot, text: int, own: CodeArray) -> CodeArray | None:
        """Store what was sampled in this step; return the frame it completes, shape (8,), None for the first ones."""
        at = int(self.position[slot])
        self._own[slot, at % self._columns] = own
        self._text[slot] = text
        self.position[slot] = at + 1
        frame = at - int(self._own_delay.max())
        completed: CodeArray = self._own[slot, (frame + self._own_delay) % self._columns, self._codebooks]
        beginning = self._beginnings.get(slot)
        first = int(self._origin[slot]) + (beginning.position if beginning else 0)
        return completed if frame >= first else None

    def _first_after_prompt(self, slot: Slot) -> Beginning | None:
        beginning = self._beginnings.get(slot)
        at = self.position[slot] - self._origin[slot]
        return beginning if beginning and beginning.position == at else None
