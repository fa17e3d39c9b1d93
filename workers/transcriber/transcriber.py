"""Many calls through one set of weights of speech-to-text, one step at a time, as `workers.engine.engine` does it.

Step p of a call reads the text token of step p - 1 (the start token at p = 0) and the caller's frame p; frame 0 is
never read, in its place stands padding. So step p is step p of `moshi_mlx.models.LmGen` fed with y[p] = x[p+1], see
`workers.engine.delay_pattern`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm

from workers.checkpoints.files import ReportProgress, report_nothing
from workers.codec.codec import codes_error
from workers.engine.backbone import can_compile
from workers.engine.kv_cache import KVCache, window_size, window_sizes
from workers.messages import SPEECH_CODEBOOKS, CodeArray, Slot
from workers.transcriber.model import SpeechModel


@dataclass(frozen=True, slots=True)
class SpeechStep:
    """What one step of one call yields; with a `fault` the other fields mean nothing and the call is over."""

    text_token: int
    turn_over: bool = False
    fault: str = ""


class Transcriber:
    """`slots` calls over one loaded `Lm`. Make it, and call it, in one thread only: MLX binds streams to threads."""

    def __init__(self, lm: Lm, slots: int) -> None:
        """Allocate everything; the `Lm` is taken over."""
        shape, dtype = lm.cfg.transformer, lm.out_norm.weight.dtype
        self.slots, self.context = slots, int(shape.context)
        self._start, self._padding = int(lm.cfg.text_out_vocab_size), int(lm.cfg.audio_padding_token)
        self._kv_cache = KVCache.allocate(shape.num_layers, shape.num_heads, shape.head_dim, dtype, slots, self.context)
        model = SpeechModel(lm)
        self._step = mx.compile(model.step) if can_compile() else model.step
        self._position = np.zeros(slots, np.int32)
        self._text = np.full(slots, self._start, np.int32)

    def open(self, slot: Slot) -> None:
        """Begin a call; what the last one left is masked by the position."""
        self._position[slot], self._text[slot] = 0, self._start

    def step(self, codes: Mapping[Slot, CodeArray]) -> dict[Slot, SpeechStep]:
        """Step each slot named with one frame of the caller's, shape (32,); other slots stay as they are."""
        faults = {slot: codes_error(frame, SPEECH_CODEBOOKS) for slot, frame in codes.items()}
        frames = {slot: frame for slot, frame in codes.items() if not faults[slot]}
        steps = {slot: SpeechStep(0, fault=fault) for slot, fault in faults.items() if fault}
        if frames:
            rows = min(1 << int(max(frames)).bit_length(), self.slots)
            results = self._run(rows, frames)
            steps |= {slot: self._advance(slot, *map(int, results[slot])) for slot in frames}
        return steps

    def warm(self, progress: ReportProgress = report_nothing) -> None:
        """Run every graph that a call may need, so that none is made during a call."""
        batches = sorted({min(1 << n, self.slots) for n in range(self.slots.bit_length() + 1)})
        graphs = [(rows, window) for rows in batches for window in window_sizes(self.context)]
        for done, (rows, window) in enumerate(graphs, 1):
            self._run(rows, {}, window)
            progress("warming up", done, len(graphs))
        mx.eval(self._kv_cache.keys, self._kv_cache.values)

    def _run(
        self, rows: int, frames: Mapping[Slot, CodeArray], window: int | None = None
    ) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
        tokens = np.full((rows, 1 + SPEECH_CODEBOOKS + 1), self._padding, np.int32)
        tokens[:, 0], tokens[:, -1] = self._text[:rows], self._position[:rows]
        for slot, frame in frames.items():
            if self._position[slot]:
                tokens[slot, 1:-1] = frame
        window = window or window_size(int(self._position[:rows].max()), self.context)
        result, self._kv_cache.keys, self._kv_cache.values = self._step(
            mx.array(tokens), self._kv_cache.keys, self._kv_cache.values, window
        )
        return np.array(result)

    def _advance(self, slot: Slot, text: int, over: int, finite: int) -> SpeechStep:
        if not finite:
            self._kv_cache.zero(slot)
            return SpeechStep(0, fault="the step computed NaN or infinity")
        self._text[slot] = text
        self._position[slot] += 1
        return SpeechStep(text, bool(over))
