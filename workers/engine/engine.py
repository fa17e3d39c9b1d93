"""Many calls through one set of weights, one step at a time.

Theory of operation. `step` takes the frame of every call that has one and returns what Moshi says to each. What must
be remembered is little: a few tokens a row (`Streams`, on the host), its rules and chances (`Rules`, on the host) and
the ring of keys and values (`Ring`, on the device). Everything between them is one pure function of fixed shapes,
`Forward`: compiled once, handed to the device as one graph, and awaited once, when the sampled tokens are read back.

Shapes. A step computes the first `rows` slots, up to the highest one that is open, and looks at the first `size`
entries of the ring; both grow in powers of two, so that a few graphs serve everything, and `warm` makes them
beforehand. Give out the lowest free slot, and a quiet engine stays fast.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm
from numpy.typing import NDArray

from workers.checkpoints.locate import Progress, report_nothing
from workers.engine import kv_cache as ring
from workers.engine.forward import Forward, compiled
from workers.engine.model import Model
from workers.engine.sampling import Sampling
from workers.engine.sampling_settings import Rules
from workers.engine.streams import LogArray, Streams
from workers.messages import CODEBOOKS, CodeArray, Slot

CODES = 2048
KEEP_ALIVE_S = 0.5
PREFILL_STEPS = 128
"""How many steps of a log go through the model at a time: enough to keep the products busy."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of one call brought.

    `codes` is Moshi's frame, shape (8,), or None for the first steps (the acoustic delay). `log` is what to keep if the
    call is to be rebuilt, see `Engine.prefill`. With a `fault` the rest means nothing and the call must end.
    """

    text_token: int
    codes: CodeArray | None
    log: LogArray
    fault: str = ""


class Engine:
    """`slots` places for calls over one loaded `Lm`. Make it, and call it, in one thread only."""

    def __init__(self, lm: Lm, slots: int, sampling: Sampling | None = None, context: int | None = None) -> None:
        """Allocate everything that will ever be needed.

        The engine takes the weights over: `lm` still works, but must not be changed. `sampling` is the default of a
        call and bounds the top_k of the others; `context` is how many steps are remembered, by default as many as the
        weights were trained for.
        """
        shape = lm.cfg.transformer
        self.slots, self.context = slots, context or int(shape.context)
        self._sampling = sampling or Sampling()
        self._streams = Streams(slots, lm.cfg.audio_delays, lm.cfg.text_out_vocab_size, lm.cfg.audio_padding_token)
        self._rules = Rules(slots, self._sampling)
        dtype = lm.out_norm.weight.dtype
        self._ring = ring.make_ring(slots, shape.num_layers, shape.num_heads, self.context, shape.head_dim, dtype)
        self._model = Model(lm)
        self._forward = compiled(Forward(self._model))
        self._open: set[Slot] = set()
        self._spoilt: set[Slot] = set()

    def open(self, slot: Slot, seed: int | None = None, sampling: Sampling | None = None) -> None:
        """Give a slot to a new call, at step 0. Raises ValueError when it is open or when a top_k is too large.

        With a `seed` a call draws the same chances again, whatever the other rows do. (Its logits are rounded a little
        differently when more rows are computed: in bf16 that may now and then change a token.) Rules of a kind that no
        call had so far make a new graph: open one such call, `warm`, and close it beforehand.
        """
        if slot in self._open or not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} cannot be opened: it is open, or not one of {self.slots}")
        self._rules.open(slot, seed, sampling or self._sampling)
        self._streams.open(slot)
        if slot in self._spoilt:
            self._ring.scrub(slot)
            self._spoilt.remove(slot)
        self._open.add(slot)

    def close(self, slot: Slot) -> None:
        """End the call in a slot. Raises KeyError when there is none."""
        self._open.remove(slot)

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, Step]:
        """Take one frame of the caller's for each slot named, shape (8,), and return what Moshi says to each.

        Slots that are not named stay as they are, and so does one whose frame is refused: its step has a fault.
        """
        refused = {slot: _refused(reason) for slot, frame in codes.items() if (reason := self._objection(slot, frame))}
        taken = {slot: frame for slot, frame in codes.items() if slot not in refused}
        if not taken:
            return refused
        self._streams.hear(taken)
        sampled = self._sample(self._rows(), taken)
        return {slot: self._advance(slot, taken[slot], sampled[slot]) for slot in taken} | refused

    def prefill(self, slot: Slot, log: LogArray) -> None:
        """Bring an open slot to where it was after the steps in `log`, shape (steps, 17), as `Step.log` gave them.

        May be called again with the steps that follow, so that other calls get their turn in between. What the call
        says next agrees with what it would have said but for the rounding of larger products.
        """
        stride = min(PREFILL_STEPS, self.context)
        for part in (log[start : start + stride] for start in range(0, len(log), stride)):
            position = int(self._streams.position[slot])
            read = np.stack([self._replay(slot, step) for step in part])
            self._model.recall(mx.array(read), position, self._ring, slot)

    def warm(self, progress: Progress = report_nothing) -> None:
        """Run every graph that a call may need, so that none is made while somebody waits."""
        batches = sorted({min(1 << n, self.slots) for n in range(self.slots.bit_length() + 1)})
        graphs = [(rows, size) for rows in batches for size in ring.windows(self.context)]
        for done, (rows, size) in enumerate(graphs):
            progress("warming up", done, len(graphs))
            self._sample(rows, (), size)
        progress("warming up", len(graphs), len(graphs))
        mx.eval(self._ring.keys, self._ring.values)

    @property
    def keep_alive_s(self) -> float | None:
        """Longest pause between two `keep_alive`: macOS takes the GPU's memory back after an idle second."""
        return KEEP_ALIVE_S if mx.metal.is_available() else None

    def keep_alive(self) -> None:
        """Step nobody, so that the device stays awake."""
        self._sample(1, ())

    def skip(self, slot: Slot, steps: int) -> None:
        """Let an open slot be where it would be after so many steps, whatever its ring holds: for benches."""
        self._streams.position[slot] += steps

    def _objection(self, slot: Slot, frame: CodeArray) -> str:
        if slot not in self._open:
            return "not open"
        if frame.shape != (CODEBOOKS,) or frame.dtype.kind not in "iu":
            return f"a frame is {CODEBOOKS} integers, not {frame.dtype} of shape {frame.shape}"
        if frame.min() < 0 or frame.max() >= CODES:
            return f"a code is 0..{CODES - 1}, not {frame.tolist()}"
        return ""

    def _rows(self) -> int:
        return min(1 << int(max(self._open)).bit_length(), self.slots)

    def _sample(self, rows: int, active: Iterable[Slot], size: int | None = None) -> NDArray[np.int32]:
        """Run the step on the device; return (rows, 10): the text token, eight codes, whether all was finite."""
        position = self._streams.position[:rows]
        read = np.concatenate([self._streams.read(rows), position[:, None], self._rules.said[:rows]], axis=1)
        draws = self._rules.draw(rows, active)
        size = size or ring.window(int(position.max()), self.context)
        sampled, self._ring.keys, self._ring.values = self._forward(
            mx.array(read), mx.array(draws), self._rules.knobs(rows), *self._ring.layers(), size, self._rules.manner
        )
        return np.array(sampled)

    def _advance(self, slot: Slot, heard: CodeArray, sampled: NDArray[np.int32]) -> Step:
        text, own, sound = int(sampled[0]), sampled[1:-1], sampled[-1]
        codes = self._streams.advance(slot, text, own)
        self._rules.remember(slot, text)
        if not sound:
            self._spoilt.add(slot)
        return Step(text, codes, np.concatenate([sampled[:-1], heard]), "" if sound else "the step is not a number")

    def _replay(self, slot: Slot, step: LogArray) -> LogArray:
        text, own, heard = int(step[0]), step[1:9], step[9:]
        self._streams.hear({slot: heard})
        read: LogArray = self._streams.read(slot + 1)[slot]
        self._streams.advance(slot, text, own)
        self._rules.remember(slot, text)
        self._rules.draw(slot + 1, [slot])
        return read


def _refused(reason: str) -> Step:
    return Step(0, None, np.zeros(0, np.int32), reason)
