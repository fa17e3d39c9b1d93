"""By which rules each row draws, and its chances: the host's side of sampling."""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from workers.engine.sampling import MEMORY, Manner, Sampling
from workers.engine.streams import TEXT_END_OF_PADDING, TEXT_PADDING
from workers.messages import CODEBOOKS, Slot

DRAWS = 1 + CODEBOOKS


class Rules:
    """One row a slot: sampling settings, a generator of its own, and the text tokens it said lately."""

    def __init__(self, slots: int, default: Sampling) -> None:
        self._default = default
        self._knobs = np.tile(self._row(default), (slots, 1))
        self._generators = [np.random.default_rng() for _ in range(slots)]
        self._count = [0] * slots
        self.manner: Manner
        self.said = np.full((slots, MEMORY), TEXT_PADDING, np.int32)
        self._refresh()

    def open(self, slot: Slot, seed: int | None, sampling: Sampling) -> None:
        """Begin anew with these rules. Raises ValueError for a top_k beyond that of the default."""
        if sampling.text_top_k > self._default.text_top_k or sampling.audio_top_k > self._default.audio_top_k:
            raise ValueError("a call's top_k is at most that of the engine's default")
        self._knobs[slot] = self._row(sampling)
        self._generators[slot] = np.random.default_rng(seed)
        self._count[slot] = 0
        self.said[slot] = TEXT_PADDING
        self._refresh()

    def draw(self, rows: int, active: Iterable[Slot]) -> NDArray[np.float32]:
        """Return nine chances in [0, 1) a row, shape (rows, 9); only the active rows' generators move on."""
        chances = np.zeros((rows, DRAWS), np.float32)
        for slot in active:
            self._generators[slot].random(dtype=np.float32, out=chances[slot])
        return chances

    def knobs(self, rows: int) -> mx.array:
        """Return the settings of the first rows, shape (rows, 6), in the order of `Sampling`'s fields."""
        return self._on_device[:rows]

    def remember(self, slot: Slot, text: int) -> None:
        """Keep a text token for the repetition penalty; padding is left out."""
        if text not in (TEXT_END_OF_PADDING, TEXT_PADDING):
            self.said[slot, self._count[slot] % MEMORY] = text
            self._count[slot] += 1

    def _refresh(self) -> None:
        self._on_device = mx.array(self._knobs)
        text_heat, text_top_k, audio_heat, audio_top_k, penalty, bias = self._knobs.T
        heat = np.concatenate([text_heat, audio_heat])
        self.manner = Manner(
            self._default.text_top_k,
            self._default.audio_top_k,
            cold=not heat.all(),
            warm=bool(heat.any()),
            uneven=bool(np.ptp(text_top_k) or np.ptp(audio_top_k)),
            plain=bool((penalty == 1).all() and not bias.any()),
        )

    @staticmethod
    def _row(sampling: Sampling) -> NDArray[np.float32]:
        values = (
            sampling.text_temperature,
            sampling.text_top_k,
            sampling.audio_temperature,
            sampling.audio_top_k,
            sampling.repetition_penalty,
            sampling.padding_bias,
        )
        return np.array(values, np.float32)
