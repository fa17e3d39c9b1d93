"""Sampling settings, random number generator and recent text of each call, on the host."""

from collections.abc import Iterable
from dataclasses import astuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from workers.engine.sampling import PENALTY_TOKENS, SamplingBranches, SamplingSettings
from workers.engine.streams import TEXT_END_OF_PADDING, TEXT_PADDING
from workers.messages import CODEBOOKS, Slot

UNIFORMS = 1 + CODEBOOKS


class SamplerState:
    """One row a slot."""

    def __init__(self, slots: int, default: SamplingSettings) -> None:
        self._default = default
        self._settings = np.tile(np.array(astuple(default), np.float32), (slots, 1))
        self._generators = [np.random.default_rng() for _ in range(slots)]
        self._text_count = [0] * slots
        self.recent_text = np.full((slots, PENALTY_TOKENS), TEXT_PADDING, np.int32)
        self._refresh()

    def open(self, slot: Slot, seed: int | None, sampling: SamplingSettings) -> None:
        """Begin a call with these settings. Raises ValueError for a top_k above that of the default."""
        if sampling.text_top_k > self._default.text_top_k or sampling.audio_top_k > self._default.audio_top_k:
            raise ValueError("a call's top_k is at most that of the engine's default")
        self._settings[slot] = astuple(sampling)
        self._generators[slot] = np.random.default_rng(seed)
        self._text_count[slot] = 0
        self.recent_text[slot] = TEXT_PADDING
        self._refresh()

    def uniforms(self, rows: int, active: Iterable[Slot]) -> NDArray[np.float32]:
        """Return nine uniform numbers in [0, 1) a row, shape (rows, 9); only the active rows' generators advance."""
        uniforms = np.zeros((rows, UNIFORMS), np.float32)
        for slot in active:
            self._generators[slot].random(dtype=np.float32, out=uniforms[slot])
        return uniforms

    def settings(self, rows: int) -> mx.array:
        """Return the settings of the first rows, shape (rows, 6), in the order of `SamplingSettings`'s fields."""
        return self._on_device[:rows]

    def add_text(self, slot: Slot, token: int) -> None:
        """Store a text token for the repetition penalty; padding is left out."""
        if token not in (TEXT_END_OF_PADDING, TEXT_PADDING):
            self.recent_text[slot, self._text_count[slot] % PENALTY_TOKENS] = token
            self._text_count[slot] += 1

    def _refresh(self) -> None:
        self._on_device = mx.array(self._settings)
        text_temperature, text_top_k, audio_temperature, audio_top_k, penalty, bias = self._settings.T
        temperatures = np.concatenate([text_temperature, audio_temperature])
        self.branches = SamplingBranches(
            self._default.text_top_k,
            self._default.audio_top_k,
            any_greedy=not temperatures.all(),
            any_sampled=bool(temperatures.any()),
            mixed_top_k=bool(np.ptp(text_top_k) or np.ptp(audio_top_k)),
            penalizes=bool((penalty != 1).any() or bias.any()),
        )
