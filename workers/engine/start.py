"""From files on disk to a warm engine, with as many slots as fit into memory and are stepped in time."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np

from workers.checkpoints.files import CheckpointError, Files, ReportProgress
from workers.checkpoints.voices import find_voice
from workers.control_messages import WorkerConfig
from workers.engine.checkpoint import load, sampling_of
from workers.engine.config import takes_prompts
from workers.engine.engine import Engine
from workers.engine.memory import Memory, device_memory, keep_resident, plan
from workers.engine.prompt import PromptSource
from workers.engine.prompt_queue import PromptQueue
from workers.engine.text import Tokenizer
from workers.messages import CODEBOOKS, FRAME_S, Slot

AUTO_MEMORY_SHARE = 0.9
"""The share of free memory that MAX_CALLS=auto may take."""
STEP_SHARE = 0.75
"""The share of a frame's time that a step may take: the codec and the rest of the machine need theirs."""
TIMED_STEPS = 12


def start_engine(
    files: Files, config: WorkerConfig, progress: ReportProgress, speech: Files | None = None
) -> tuple[Engine, Tokenizer, str]:
    """Load, warm up, and return the engine, its tokenizer, and a note on what it runs on.

    Room is left for the transcriber's checkpoint `speech`. Raises CheckpointError; if memory is short, before anything
    is loaded.
    """
    slots = fitting_slots(files, config, device_memory(), speech)
    lm, tokenizer = load(files, config.quantize, progress), Tokenizer(files.tokenizer)
    if (pieces := len(tokenizer.word_parts)) > lm.cfg.text_out_vocab_size:
        wrong = f"{pieces} pieces, more than the model's {lm.cfg.text_out_vocab_size}"
        raise CheckpointError(f"MOSHI_CHECKPOINT: the tokenizer {files.tokenizer.name} has {wrong}")
    sampling = replace(sampling_of(files), **dict(config.sampling))  # type: ignore[arg-type]
    parts, prompts = tokenizer.word_parts, takes_prompts(files)

    def make(slots: int) -> Engine:
        return Engine(lm, slots, sampling, config.context, word_parts=parts, takes_prompts=prompts)

    engine = warm_engine(make, slots, not config.slots, progress, again=config.again)
    keep_resident()
    note = f"{config.checkpoint}, {engine.slots} calls on {mx.default_device()}"
    return engine, tokenizer, note


def prompts_of(engine: Engine, tokenizer: Tokenizer, files: Files, progress: ReportProgress) -> PromptQueue:
    """Return what prepares an engine's prompts."""
    source = PromptSource(tokenizer.encode, partial(find_voice, files), engine.initial_tokens)
    return PromptQueue(engine, source.read, progress)


def fitting_slots(files: Files, config: WorkerConfig, memory: Memory, speech: Files | None = None) -> int:
    """Return how many calls fit, at most 64. Raises CheckpointError if not one, or not the `config.slots` wanted.

    When started `again`, they have fitted: the other workers hold their part of the memory already.
    """
    if config.again:
        return config.slots
    wanted = plan(files, config.quantize, config.codec, config.slots or 1, config.context, speech)
    if shortage := wanted.shortage(memory):
        raise CheckpointError(shortage)
    if slots := config.slots or wanted.most_calls(memory, AUTO_MEMORY_SHARE):
        return slots
    raise CheckpointError("MAX_CALLS=auto: not one call fits with memory to spare; set MAX_CALLS=1 to try it")


def warm_engine(
    make: Callable[[int], Engine], slots: int, timely: bool, progress: ReportProgress, again: bool = False
) -> Engine:
    """Return a warm engine with `slots`, or when `timely` with half, a quarter … of them if more are too slow.

    When started `again`, while calls wait, part of the warm-up is left for later.
    """
    while True:
        engine = make(slots)
        engine.warm(progress, rest_later=again)
        if not timely or slots == 1 or full_step_s(engine, progress) <= STEP_SHARE * FRAME_S:
            return engine
        del engine
        mx.clear_cache()
        slots //= 2


def full_step_s(engine: Engine, progress: ReportProgress) -> float:
    """Return the 95th percentile of the time of a step of all slots with full KV caches, in seconds."""
    silence = {Slot(slot): np.zeros(CODEBOOKS, np.int32) for slot in range(engine.slots)}
    for slot in silence:
        engine.open(slot)
        engine.skip(slot, engine.context)
    times_s = []
    for number in range(TIMED_STEPS):
        started_s = time.monotonic()
        engine.step(silence)
        times_s.append(time.monotonic() - started_s)
        progress(f"timing {engine.slots} calls", number + 1, TIMED_STEPS)
    for slot in silence:
        engine.close(slot)
    return float(np.percentile(times_s[1:], 95))
