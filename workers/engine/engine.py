"""Many calls through one set of weights, one step at a time.

`step` takes the frame of every call that has one and returns what Moshi says to each. The state of a call is small: a
few tokens (`Streams`) and its sampler (`SamplerState`) on the host, keys and values (`KVCache`) on the device. The rest
is one pure function of fixed shapes, `Model.step`: compiled once, evaluated as one graph, and awaited once, when the
sampled tokens are read back.

A step computes the first `rows` slots, up to the highest one that is open, and reads the first `window` entries of the
KV cache; both grow in powers of two, so that a few graphs serve everything, and `warm` makes them beforehand. Give out
the lowest free slot, and an engine with few calls stays fast.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm
from numpy.typing import NDArray

from workers.checkpoints.files import ReportProgress, report_nothing
from workers.codec.codec import codes_error
from workers.engine.backbone import can_compile
from workers.engine.delay_pattern import LogArray, StepResult, Streams, parse_log
from workers.engine.kv_cache import KVCache, window_size, window_sizes
from workers.engine.memory import PROMPT_STEPS, kv_step_bytes
from workers.engine.model import Model
from workers.engine.prefix_cache import PrefixCache, PromptPrefill
from workers.engine.prompt import CHUNKS, Prompt, PromptError, check_prompt
from workers.engine.sampling import PENALTY_TOKENS, SamplerState, SamplingBranches, SamplingSettings
from workers.engine.steering import FREE, Force, WordPart
from workers.messages import CODEBOOKS, CODES, STEP_TOKENS, CodeArray, SamplingChanges, Slot

KEEP_ALIVE_S = 0.5
NOTHING: Mapping[Slot, Force] = {}


class Engine:
    """`slots` calls over one loaded `Lm`. Make it, and call it, in one thread only: MLX binds streams to threads."""

    def __init__(
        self,
        lm: Lm,
        slots: int,
        sampling: SamplingSettings | None = None,
        context: int | None = None,
        *,
        word_parts: Sequence[WordPart] = (),
        takes_prompts: bool = False,
    ) -> None:
        """Allocate everything that will be needed.

        The engine takes the weights over: `lm` still works, but must not be changed. `sampling` is the default of a
        call and limits the top_k of others; `context` is the number of steps remembered, by default the `lm`'s.
        `word_parts` says what each text token is to a word; what it does not name is nothing to one. `takes_prompts`:
        the checkpoint was trained with prompts.
        """
        shape = lm.cfg.transformer
        self.slots, self.context = slots, context or int(shape.context)
        self._streams = Streams(slots, lm.cfg.audio_delays, lm.cfg.text_out_vocab_size, lm.cfg.audio_padding_token)
        default = sampling or SamplingSettings()
        self.sampling = (*asdict(default).items(), ("repetition_penalty_context", PENALTY_TOKENS))
        """How a call samples without changes, by name."""
        self._sampler = SamplerState(slots, default)
        dtype = lm.out_norm.weight.dtype
        self._allocate = partial(KVCache.allocate, shape.num_layers, shape.num_heads, shape.head_dim, dtype)
        self._kv_cache = self._allocate(slots, self.context)
        self._config, self._step_bytes = lm.cfg, kv_step_bytes(lm.cfg, dtype.size)
        self.takes_prompts, self.prompts = takes_prompts, PrefixCache(PROMPT_STEPS * self._step_bytes * takes_prompts)
        parts = np.full(lm.cfg.text_out_vocab_size, WordPart.NONE, np.int32)
        parts[: len(word_parts)] = word_parts[: len(parts)]
        self._model = Model(lm, mx.array(parts))
        self._step = mx.compile(self._model.step) if can_compile() else self._model.step
        self._open: set[Slot] = set()
        self.prefill_s: dict[int, float] = {}
        self.cold: list[tuple[int, int, SamplingBranches]] = []
        """Rows, window and branches of the graphs that are still to be warmed up."""

    def open(self, slot: Slot, seed: int | None = None, sampling: SamplingChanges = (), prompt: str = "") -> None:
        """Give a slot to a new call, at step 0 or after the prompt that is kept under the key `prompt`.

        Raises ValueError when it is open, KeyError when there is no such prompt.

        With a `seed` a call draws the same uniforms again, whatever the other rows do. (Its logits are rounded a little
        differently when more rows are computed: in bf16 that may now and then change a token.) `sampling` replaces
        values of the default, see `call_settings`.
        """
        if slot in self._open or not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} cannot be opened: it is open, or not one of {self.slots}")
        prefix = self.prompts.get(prompt) if prompt else None
        if prompt and not prefix:
            raise KeyError(prompt)
        self._sampler.open(slot, seed, sampling)
        self._streams.open(slot, prefix.beginning if prefix else None)
        if prefix:
            self._kv_cache.copy(slot, prefix.kv_cache)
        self._open.add(slot)

    def prefill_prompt(self, prompt: Prompt) -> PromptPrefill:
        """Make room for a prompt; return what computes it, for `prompts` to keep. Raises PromptError."""
        check_prompt(prompt, self._config, self.context)
        if not self.prompts.reserve(prompt.positions * self._step_bytes):
            raise PromptError(f"it takes more than the {self.prompts.most_bytes >> 20} MiB that there are for prompts")
        mx.clear_cache()  # buffers of prompts dropped since, whose sizes fit no other
        return PromptPrefill(self._model, prompt, self._allocate(1, prompt.positions))

    @property
    def initial_tokens(self) -> tuple[int, int]:
        """What the text stream and the codes read at step 0."""
        return int(self._config.text_out_vocab_size), int(self._config.audio_padding_token)

    def close(self, slot: Slot) -> None:
        """End the call in a slot. Raises KeyError when there is none."""
        self._open.remove(slot)
        self._sampler.close(slot)

    def step(self, codes: Mapping[Slot, CodeArray], forced: Mapping[Slot, Force] = NOTHING) -> dict[Slot, StepResult]:
        """Step each slot named with one frame of the caller's, shape (8,), and return what Moshi says to each.

        `forced` says what takes the place of the text tokens sampled, for slots in which something does.
        Slots that are not named stay as they are, and so does one whose frame is refused: its result has a fault.
        """
        faults = {slot: codes_error(frame) if slot in self._open else "not open" for slot, frame in codes.items()}
        frames = {slot: frame for slot, frame in codes.items() if not faults[slot]}
        refused = {slot: StepResult(0, None, fault=fault) for slot, fault in faults.items() if fault}
        if not frames:
            return refused
        frames = {slot: self._streams.write(slot, frame) for slot, frame in frames.items()}
        sampled = self._sample(min(1 << int(max(self._open)).bit_length(), self.slots), frames, forced=forced)
        return {slot: self._advance(slot, frame, sampled[slot]) for slot, frame in frames.items()} | refused

    def read_log(self, log: bytes) -> LogArray:
        """Return the steps of a log, (steps, 17). Raises ValueError for tokens that the checkpoint has not."""
        steps = parse_log(log)
        most = np.array([self._config.text_out_vocab_size, *[CODES] * (2 * CODEBOOKS)])
        if (steps < 0).any() or (steps >= most).any():
            raise ValueError("the log holds tokens that the checkpoint has not")
        return steps

    def own_frames(self, log: LogArray) -> CodeArray:
        """Return Moshi's frames that are complete after the steps of a log, (frames, 8)."""
        return self._streams.own_frames(log)

    def leave_out(self, slot: Slot, steps: LogArray, skipped: int = 0) -> None:
        """Pass over the first steps of a call just opened: `skipped` unknown ones and those in `steps`, (steps, 17).

        The model forgets them; what it reads next seems to follow the call's beginning. The sampler goes on as if it
        had sampled them.
        """
        self._streams.leave_out(slot, steps, skipped)
        self._sampler.replay(slot, steps[:, 0], skipped)

    def prefill(self, slot: Slot, log: LogArray) -> bool:
        """Bring an open slot to where it was after the steps in `log`, shape (steps, 17), of `StepResult.log`.

        May be called again with the steps that follow, so that other calls get their turn in between. The next tokens
        are those that the call would have had, but for the rounding of larger products. Returns False, with the slot's
        KV cache cleared, when the model computes NaN or infinity: the call cannot go on.
        """
        finite, stride = True, min(max(CHUNKS), self.context)
        for part in (log[start : start + stride] for start in range(0, len(log), stride)):
            position = int(self._streams.position[slot])
            tokens = self._streams.replay(slot, part)
            self._sampler.replay(slot, part[:, 0])
            finite &= self._model.prefill(mx.array(tokens), position, self._kv_cache, slot)
        if not finite:
            self._kv_cache.zero(slot)
        return finite

    def warm(self, progress: ReportProgress = report_nothing, *, rest_later: bool = False) -> None:
        """Run every graph that a call may need, so that none is made during a call.

        With `rest_later` only those of the largest window, which can serve any call; the rest is left to `warm_next`.
        """
        batches = sorted({min(1 << n, self.slots) for n in range(self.slots.bit_length() + 1)})
        graphs = [*product(batches, window_sizes(self.context), self._sampler.all_branches)]
        self.cold = [graph for graph in graphs if rest_later and graph[1] < self.context]
        now = [graph for graph in graphs if graph not in self.cold]
        for done, (rows, window, branches) in enumerate(now, 1):
            self._sample(rows, (), window, branches)
            progress("warming up", done, len(now))
        mx.eval(self._kv_cache.keys, self._kv_cache.values)
        self._time_prefill(CHUNKS if self.takes_prompts else CHUNKS[1::3])

    def warm_next(self) -> None:
        """Run one of the `cold` graphs; until then steps use one of a larger window."""
        rows, window, branches = self.cold.pop(0)
        self._sample(rows, (), window, branches)

    @property
    def keep_alive_s(self) -> float | None:
        """Longest pause between two `keep_alive`: macOS takes the GPU's memory back after an idle second."""
        return KEEP_ALIVE_S if mx.metal.is_available() else None

    def keep_alive(self) -> None:
        """Run a step for no call, so that the device stays awake."""
        self._sample(1, ())

    def skip(self, slot: Slot, steps: int) -> None:
        """Advance the position of an open slot, whatever its KV cache holds: for benches."""
        self._streams.position[slot] += steps

    def _time_prefill(self, chunks: Sequence[int]) -> None:
        """Measure `prefill_s`, what a pass over so many positions takes, each the second time, in a free slot."""
        if not (free := set(range(self.slots)) - self._open):
            return
        for steps in (min(size, self.context) for size in [*chunks, *chunks]):
            started_s = time.monotonic()
            self._model.prefill(mx.zeros((steps, STEP_TOKENS), mx.int32), 0, self._kv_cache, min(free))
            self.prefill_s[steps] = time.monotonic() - started_s

    def _sample(
        self,
        rows: int,
        active: Iterable[Slot],
        window: int | None = None,
        branches: SamplingBranches | None = None,
        forced: Mapping[Slot, Force] = NOTHING,
    ) -> NDArray[np.int32]:
        """Run the step on the device; return (rows, 10): the text token, eight codes, whether all was finite."""
        position = self._streams.position[:rows]
        branches = branches or self._sampler.branches
        force = np.array([forced.get(Slot(row), FREE) for row in range(rows)], np.int32)
        read, recent_text = self._streams.read(rows), self._sampler.recent_text[:rows]
        tokens = np.concatenate([read, position[:, None], force, recent_text], axis=1)
        sampled, self._kv_cache.keys, self._kv_cache.values = self._step(
            mx.array(tokens),
            mx.array(self._sampler.uniforms(rows, active)),
            self._sampler.settings[:rows],
            self._kv_cache.keys,
            self._kv_cache.values,
            window or self._window(rows, int(position.max()), branches),
            branches,
        )
        return np.array(sampled)

    def _window(self, rows: int, position: int, branches: SamplingBranches) -> int:
        """Return how many entries to read when the furthest row is at `position`: the fewest with a graph, if warm."""
        fewest, sizes = window_size(position, self.context), window_sizes(self.context)
        return next(size for size in sizes if size >= fewest and (rows, size, branches) not in self.cold)

    def _advance(self, slot: Slot, caller: CodeArray, sampled: NDArray[np.int32]) -> StepResult:
        text, own, finite = int(sampled[0]), self._streams.keep_delayed(slot, sampled[1:-1]), sampled[-1]
        codes = self._streams.advance(slot, text, own)
        self._sampler.add_text(slot, text)
        if not finite:
            self._kv_cache.zero(slot)
        log = np.concatenate([sampled[:1], own, caller])
        return StepResult(text, codes, log, "" if finite else "the step computed NaN or infinity")
