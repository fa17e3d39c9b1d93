"""`python -m workers.worker CONTROL UPSTREAM DOWNSTREAM`: one worker process, over three inherited sockets.

It waits for its configuration, builds its stage, reports ready and runs the loop until told to stop.
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

from workers.checkpoints.files import CheckpointError
from workers.checkpoints.locate import locate
from workers.codec.tensors import WeightsError
from workers.gc_freeze import freeze_gc
from workers.link import Link, LinkClosed
from workers.logging import log_uncaught_exceptions, start_process_logging
from workers.loop import FrameProcessor, WorkerLoop
from workers.messages import Prepared, Progress, Ready, Slot, Stage, StartRefused, WorkerConfig

EXIT_REFUSED = 2
LOOPBACK_SLOTS = 64
Built = tuple[FrameProcessor, str, Callable[[], int]]
"""A stage, a note on what it runs on, and how many bytes MLX holds for it."""


def main(*descriptors: int) -> int:
    """Run one worker; return the exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the app, too, which ends this process
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    control, upstream, downstream = (Link(socket.socket(fileno=descriptor)) for descriptor in descriptors)
    try:
        config = _wait_for_config(control)
        start_process_logging(config.stage, "INFO", config.log_format)
        log_uncaught_exceptions()
        build = _engine if config.stage is Stage.STEP else _codec
        stage, note, device_bytes = build(config, control)
        freeze_gc()
        control.send(Ready(note))
    except (CheckpointError, WeightsError) as error:
        with contextlib.suppress(LinkClosed):
            control.send(StartRefused(str(error)))
        return EXIT_REFUSED
    except LinkClosed:  # told to stop while it waited or loaded
        return 0
    WorkerLoop(config.stage, control, upstream, downstream, stage, device_bytes).run()
    return 0


def _end_with_parent() -> None:
    """End this process when standard input ends, which it does when the parent dies, however it dies."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


def _wait_for_config(control: Link) -> WorkerConfig:
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.select()
    (config,) = control.receive()
    assert isinstance(config, WorkerConfig)
    return config


def _codec(config: WorkerConfig, _: Link) -> Built:
    from workers.codec.choose import codec_name, open_codec
    from workers.codec.codec import silence_codes
    from workers.codec.stages import SILENT_FRAMES, DecoderStage, EncoderStage

    if config.stage is Stage.DECODE:
        return DecoderStage(open_codec(config), config.greeting_frames), codec_name(config), lambda: 0
    spare = Slot(config.slots)
    encoder = open_codec(replace(config, slots=config.slots + 1))
    silence = silence_codes(encoder, Slot(0), max(config.greeting_frames, SILENT_FRAMES))
    return EncoderStage(encoder, silence, spare), codec_name(config), lambda: 0


def _engine(config: WorkerConfig, control: Link) -> Built:
    from workers.engine.loopback import HASH_CHECKPOINT, HashEngine, HashWords, LoopbackEngine
    from workers.engine.stage import EngineStage

    def progress(what: str, done: int, total: int) -> None:
        control.send(Progress(what, done, total))

    loopback = config.engine == "loopback"
    files = None
    if not (loopback and config.codec == "loopback"):
        files = locate(config.checkpoint, config.cache, progress, config.quantize, config.lora)
    mimi, slots = files.mimi if files else None, config.slots or (LOOPBACK_SLOTS if loopback else 0)
    if loopback:
        hashes = config.checkpoint == HASH_CHECKPOINT
        control.send(Prepared(mimi, slots, HASH_CHECKPOINT if hashes else ""))
        if hashes:
            return EngineStage(HashEngine(config.loopback_step_s), HashWords(), checkpoint=HASH_CHECKPOINT), "hash", int
        return EngineStage(LoopbackEngine(config.loopback_step_s), None), "loopback", int
    from workers.engine.digest import digest_of
    from workers.engine.memory import device_bytes
    from workers.engine.start import prompts_of, start_engine

    assert files is not None
    checkpoint = digest_of(files, config.quantize, config.context)
    if slots:
        control.send(Prepared(mimi, slots, checkpoint))  # so that the codec loads meanwhile
    engine, tokenizer, note = start_engine(files, config, progress)
    if not slots:
        control.send(Prepared(mimi, engine.slots, checkpoint))
    prompts = prompts_of(engine, tokenizer, files, progress)
    stage = EngineStage(engine, tokenizer, prompts=prompts, checkpoint=checkpoint, progress=progress)
    return stage, note, device_bytes


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
