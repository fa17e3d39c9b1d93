"""Computes prompts beside the calls: at once while no call is on, else in the time that steps leave.

A prompt is computed chunk by chunk, and frames are read in between. Of what has been dropped from memory the source is
kept, so that a call that begins with it can have it computed again.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median_low
from typing import TYPE_CHECKING

from workers.checkpoints.files import ReportProgress, report_nothing
from workers.engine.prompt import CHUNKS, Prompt, PromptError
from workers.messages import PreparePrompt, PromptMessage, PromptReady, PromptRefused

if TYPE_CHECKING:
    from workers.engine.engine import Engine
    from workers.engine.prefix_cache import Prefix, PromptPrefill

log = logging.getLogger(__name__)

REMEMBERED = 5
"""Passes of one size whose median counts, so that a single stall does not."""
IDLE_CHUNK_S = 0.5
"""The longest that a chunk may keep a call waiting that is just opened."""
NO_PROMPT = "this checkpoint takes no prompt and no voice"
Read = Callable[[PreparePrompt], Prompt]


class PrefillPace:
    """How many positions to compute at a time, from what passes took before; `measured_s` says it of some sizes.

    A pass over few positions reads all weights once, as a step of the batch does, so twice as many positions take at
    most twice as long.
    """

    def __init__(self, measured_s: Mapping[int, float]) -> None:
        self._took_s: dict[int, deque[float]] = {}
        for positions, seconds in measured_s.items():
            self.took(positions, seconds)

    def took(self, positions: int, seconds: float) -> None:
        """A pass over so many positions has taken so long."""
        size = max(size for size in CHUNKS if size <= positions)
        self._took_s.setdefault(size, deque(maxlen=REMEMBERED)).append(seconds)

    def chunk(self, free_s: float | None) -> int:
        """Return how many positions fit into `free_s`, 0 if none does or nothing is known; None: no call is on."""
        if free_s is None:
            return max(1, self.chunk(IDLE_CHUNK_S))
        return max((size for size in CHUNKS if self.expected_s(size) <= free_s), default=0)

    def expected_s(self, size: int) -> float:
        """Return the median for this size, one of CHUNKS, or the least that others allow; infinity with none."""
        if size in self._took_s:
            return median_low(self._took_s[size])
        known = {known: median_low(times) for known, times in self._took_s.items()}
        return min((took_s * max(1, size // at) for at, took_s in known.items()), default=float("inf"))


class PromptQueue:
    """The prompts of `engine`, which `read` reads (it raises PromptError); without an engine all are refused."""

    def __init__(
        self,
        engine: "Engine | None" = None,
        read: Read | None = None,
        progress: ReportProgress = report_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine if engine and engine.takes_prompts else None
        self._read, self._progress, self._clock = read, progress, clock
        self._known: dict[str, PreparePrompt] = {}
        self._waiting: deque[str] = deque()
        self._prefill: PromptPrefill | None = None
        """The computation of the first one that waits, once it has begun."""
        self.pace = PrefillPace(engine.prefill_s if engine else {})

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, message: PreparePrompt) -> list[PromptMessage]:
        """Let a prompt wait for its computation; return the answer if that is known already."""
        if not self._engine:
            return [PromptRefused(message.key, NO_PROMPT)]
        self._known[message.key] = message
        if prefix := self._engine.prompts.get(message.key):
            return [_ready(message.key, prefix)]
        if message.key not in self._waiting:
            self._waiting.append(message.key)
        return []

    def drop(self, key: str) -> None:
        """Forget a prompt."""
        self._known.pop(key, None)
        self._leave(key)
        if self._engine:
            self._engine.prompts.drop(key)

    def forget(self) -> None:
        """Forget what is wanted, which will be asked for again; what has been computed is kept."""
        self._known.clear()
        self._waiting.clear()
        self._prefill = None

    def chunk(self, free_s: float | None) -> int:
        """Return how many positions to compute now, 0 for none; `free_s` is None while no call is on."""
        return self.pace.chunk(free_s) if self._waiting else 0

    def work(self, chunk: int) -> list[PromptMessage]:
        """Compute the next so many positions of the first prompt; return the answer when it is complete or refused."""
        if not chunk or not self._waiting:
            return []
        key = self._waiting[0]
        try:
            prefix = self._advance(key, chunk)
        except PromptError as error:
            reason = str(error)
        except Exception:  # memory is short, say: calls go on
            log.exception("a prompt cannot be computed")
            reason = "an error, see the engine's log"
        else:
            return [_ready(key, prefix)] if prefix else []
        self.drop(key)
        return [PromptRefused(key, reason)]

    def require(self, key: str, idle: bool) -> tuple[str, list[PromptMessage]]:
        """Return a prompt's key for a call that begins with it, "" if it must begin without, and what is to be sent on.

        A prompt that is known but not in memory is computed now when `idle`, else next.
        """
        if not key or not self._engine or self._engine.prompts.get(key):
            return (key if self._engine else ""), []
        answers: list[PromptMessage] = []
        if key in self._known:
            self._put_first(key)
            while idle and self._waiting and self._waiting[0] == key:
                answers += self.work(self.chunk(None))
        return (key if self._engine.prompts.get(key) else ""), answers

    def has(self, key: str) -> bool:
        """Whether a call can begin with this prompt now; it also can where no prompt is taken."""
        return not key or not self._engine or self._engine.prompts.get(key) is not None

    def hurry(self, keys: Sequence[str]) -> None:
        """Compute the first of these prompts that is known before all others."""
        if key := next((key for key in keys if key in self._known), ""):
            self._put_first(key)

    def _advance(self, key: str, chunk: int) -> "Prefix | None":
        """Begin or go on; return the prefix when it is complete."""
        assert self._engine
        assert self._read
        if not self._prefill:
            self._prefill = self._engine.prefill_prompt(self._read(self._known[key]))
            return None
        prefill, started_s = self._prefill, self._clock()
        self.pace.took(prefill.advance(chunk), self._clock() - started_s)
        self._progress("computing a prompt", prefill.done, prefill.total)
        if prefill.done < prefill.total:
            return None
        self._engine.prompts.add(key, prefill.prefix)
        self._leave(key)
        return prefill.prefix

    def _leave(self, key: str) -> None:
        if key in self._waiting:
            if self._waiting[0] == key:
                self._prefill = None
            self._waiting.remove(key)

    def _put_first(self, key: str) -> None:
        if not self._waiting or self._waiting[0] != key:
            self._leave(key)
            self._prefill = None
            self._waiting.appendleft(key)


def _ready(key: str, prefix: "Prefix") -> PromptReady:
    return PromptReady(key, prefix.beginning.position, prefix.nbytes)
