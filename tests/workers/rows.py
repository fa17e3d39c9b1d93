"""Calls in the rows of a batched model, whatever slot each is in."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hypothesis import strategies as st

from workers.messages import CodeArray, Slot

Outcome = TypeVar("Outcome")
A, B, C = map(Slot, range(3))
STORIES = st.lists(
    st.tuples(st.sampled_from([A, B, C]), st.booleans(), st.sets(st.sampled_from([A, B, C]))), max_size=12
)
"""Before each step a slot, whether its call changes, and the slots that take part."""


class Calls(Generic[Outcome]):
    """The n-th call says `speech(n, steps)`; `outcome` is what is compared of a step of the `model`."""

    def __init__(self, model: Any, speech: Callable[[int, int], CodeArray], outcome: Callable[[Any], Outcome]) -> None:
        self.model, self._speech, self._outcome = model, speech, outcome
        self.calls: dict[Slot, int] = {}
        self.transcripts: list[list[Outcome]] = []

    def open(self, slot: Slot) -> None:
        self.calls[slot] = len(self.transcripts)
        self.transcripts.append([])
        self.model.open(slot)

    def close(self, slot: Slot) -> None:
        del self.calls[slot]
        self.model.close(slot)

    def step(self, *slots: Slot, times: int = 1) -> None:
        for _ in range(times):
            calls = {slot: self.calls[slot] for slot in slots}
            said = {slot: self._speech(call, 100)[len(self.transcripts[call])] for slot, call in calls.items()}
            for slot, step in self.model.step(said).items():
                self.transcripts[calls[slot]].append(self._outcome(step))

    def assert_like(self, expected: Callable[[int], list[Outcome]]) -> None:
        """Compare each call with what is `expected` of it alone."""
        for call, transcript in enumerate(self.transcripts):
            assert transcript == expected(call)[: len(transcript)], f"call {call}"
