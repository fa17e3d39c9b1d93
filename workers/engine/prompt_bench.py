"""What a prompt takes: computed in passes against stepped, copied into a slot, and beside live calls in real time."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from moshi_mlx.models import Lm

from workers.engine.engine import Engine
from workers.engine.prompt import CHUNKS, SPACER_FRAMES, Prompt, build_prompt
from workers.engine.prompt_queue import PromptQueue
from workers.engine.sampling import SamplingSettings
from workers.engine.stage import EngineStage
from workers.messages import CODEBOOKS, CODES, FRAME_S, Codes, DropPrompt, Epoch, Open, PreparePrompt, Slot

POSITIONS = 250
TURNS = 5
TICKS_IN_TURN = 25
"""Frames of each call while no prompt waits, before as many while some do: two seconds."""
PLENTY = [str(number) for number in range(100)]
"""Keys of more prompts than are computed in a turn."""
ONE = Slot(0)
Figures = dict[str, float]


def bench_prompts(lm: Lm, rows: int, sampling: SamplingSettings, context: int | None) -> Figures:
    """Return what a prompt of 250 positions takes, and how long steps of `rows` calls take while some are computed."""
    return _bench_prefill(lm, sampling, context) | _bench_live(lm, rows, sampling, context)


def _bench_prefill(lm: Lm, sampling: SamplingSettings, context: int | None) -> Figures:
    """Prefill in turns with as many steps of one call; `ratio` is stepped against prefilled."""
    engine = Engine(lm, 1, sampling, context, takes_prompts=True)
    engine.warm()
    prompt, frame = _prompt(engine), {ONE: np.zeros(CODEBOOKS, np.int32)}
    turns: list[tuple[float, ...]] = []
    for _ in range(TURNS):
        prefilled_s, opened_s = seconds(partial(_compute, engine, prompt)), seconds(partial(engine.open, ONE))
        stepped_s = seconds(lambda: [engine.step(frame) for _ in range(POSITIONS)])
        engine.close(ONE)
        turns.append((prefilled_s, stepped_s, opened_s, seconds(partial(engine.open, ONE, prompt="bench"))))
        engine.close(ONE)
    prefill_ms, stepped_ms, open_ms, with_prompt_ms = (float(value) * 1e3 for value in np.median(turns, axis=0))
    times_ms = {"prefill_ms": prefill_ms, "stepped_ms": stepped_ms, "ratio": stepped_ms / prefill_ms}
    opened_ms = {"open_ms": open_ms, "open_with_prompt_ms": with_prompt_ms}
    return {"positions": POSITIONS, "mib": engine.prompts.nbytes / 2**20, **times_ms, **opened_ms}


def _compute(engine: Engine, prompt: Prompt) -> None:
    prefill = engine.prefill_prompt(prompt)
    while prefill.done < prefill.total:
        prefill.advance(max(CHUNKS))
    engine.prompts.add("bench", prefill.prefix)


def _bench_live(lm: Lm, rows: int, sampling: SamplingSettings, context: int | None) -> Figures:
    """Time the steps of calls in real time, in turns with and without a prompt that waits to be computed."""
    engine = Engine(lm, rows, sampling, context, takes_prompts=True)
    engine.warm()
    passes: list[int] = []
    prompts = PromptQueue(engine, lambda _: _prompt(engine), lambda _, done, total: passes.append(done))
    stage = EngineStage(engine, None, prompts=prompts)
    for row in range(rows):
        stage.receive(Open(Slot(row), Epoch(1)))
    _talk(stage, rows)
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(TURNS):
        alone += _talk(stage, rows)
        for key in PLENTY:
            stage.receive(PreparePrompt(key, "Be kind."))
        beside += _talk(stage, rows)
        for key in PLENTY:
            stage.receive(DropPrompt(key))
    return {"rows": rows, "passes": len(passes), **_percentiles("alone", alone), **_percentiles("beside", beside)}


def _talk(stage: EngineStage, rows: int) -> list[float]:
    """Let each call send a frame every 80 ms for a turn; return the seconds of each step."""
    took_s, codes = [], np.zeros(CODEBOOKS, np.int32)
    next_s = time.monotonic()
    for seq in range(TICKS_IN_TURN):
        for row in range(rows):
            stage.receive(Codes(Slot(row), Epoch(1), seq, codes))
        next_s += FRAME_S
        while (now := time.monotonic()) < next_s:
            due_s = stage.due_s()
            if due_s is None or due_s > now:
                time.sleep(min(next_s, due_s or next_s) - now)
                continue
            spans = [message.spans[-1] for message in stage.work() if isinstance(message, Codes)]
            took_s += [span.ended_s - span.started_s for span in spans[:1]]
    return took_s


def _percentiles(name: str, seconds: list[float]) -> Figures:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {f"{name}_p50_ms": float(p50) * 1e3, f"{name}_p99_ms": float(p99) * 1e3}


def _prompt(engine: Engine) -> Prompt:
    voice = np.random.default_rng(0).integers(0, CODES, (POSITIONS + 1 - 2 * SPACER_FRAMES, CODEBOOKS), np.int32)
    return build_prompt([], voice, *engine.initial_tokens)


def seconds(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s
