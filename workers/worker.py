"""`python -m workers.worker CONTROL UPSTREAM DOWNSTREAM ...`: one worker process, over inherited sockets.

The engine has more of the last two, for when encoder and decoder are lost. A worker waits for its configuration, builds
its stage, reports ready and runs the loop until told to stop.
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from workers.checkpoints.files import CheckpointError, Files, ReportProgress
from workers.codec.tensors import WeightsError
from workers.control_messages import (
    TRANSCRIBER,
    Prepared,
    Progress,
    Ready,
    StartRefused,
    TranscriberConfig,
    WorkerConfig,
)
from workers.gc_freeze import freeze_gc
from workers.link import Link, LinkClosed
from workers.logging import log_uncaught_exceptions, start_process_logging
from workers.loop import FrameProcessor, StageMessage, WorkerLoop, frames_in
from workers.messages import Slot, Stage

EXIT_REFUSED = 2
LOOPBACK_SLOTS = 64
NICENESS = 10
"""The transcriber gives way to the others where processors are short."""
Built = tuple[FrameProcessor, Ready, Callable[[], int], Callable[[Sequence[StageMessage]], int]]
"""A stage, what it reports when it is warm, how many bytes MLX holds for it, and the rows of its units of work."""


def main(*descriptors: int) -> int:
    """Run one worker; return the exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the app, too, which ends this process
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    control, upstream, downstream, *spares = (Link(socket.socket(fileno=descriptor)) for descriptor in descriptors)
    try:
        config = _wait_for_config(control)
        name = config.stage if isinstance(config, WorkerConfig) else TRANSCRIBER
        start_process_logging(name, "INFO", config.log_format)
        log_uncaught_exceptions()
        stage, ready, device_bytes, rows_of = _build(config, control)
        freeze_gc()
        control.send(ready)
    except (CheckpointError, WeightsError) as error:
        with contextlib.suppress(LinkClosed):
            control.send(StartRefused(str(error)))
        return EXIT_REFUSED
    except LinkClosed:  # told to stop while it waited or loaded
        return 0
    WorkerLoop(name, control, upstream, downstream, stage, device_bytes, rows_of, spares).run()
    return 0


def _end_with_parent() -> None:
    """End this process when standard input ends, which it does when the parent dies, however it dies."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


def _wait_for_config(control: Link) -> WorkerConfig | TranscriberConfig:
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.select()
    (config,) = control.receive()
    assert isinstance(config, WorkerConfig | TranscriberConfig)
    return config


def _build(config: WorkerConfig | TranscriberConfig, control: Link) -> Built:
    if isinstance(config, TranscriberConfig):
        return _transcriber(config, control)
    return (_engine if config.stage is Stage.STEP else _codec)(config, control)


def give_way() -> None:
    """Lower the priority of this process, which has a session of its own.

    Where Linux shares processors between sessions, that of the session counts alone (sched(7), autogroups).
    """
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def _transcriber(config: TranscriberConfig, control: Link) -> Built:
    give_way()
    from workers.engine.memory import device_bytes
    from workers.transcriber.start import start_transcriber

    stage, note = start_transcriber(config, lambda *progress: control.send(Progress(*progress)))
    return stage, Ready(note), device_bytes, lambda _: stage.batch


def _codec(config: WorkerConfig, control: Link) -> Built:
    from workers.codec.choose import codec_name, open_codec
    from workers.codec.codec import silence_codes
    from workers.codec.stages import SILENT_FRAMES, DecoderStage, EncoderStage

    def progress(what: str, done: int, total: int) -> None:
        control.send(Progress(what, done, total))

    if config.stage is Stage.DECODE:
        decoder = DecoderStage(open_codec(config), config.greeting_frames, progress=progress)
        return decoder, Ready(codec_name(config)), lambda: 0, frames_in
    spare = Slot(config.slots)
    encoder = open_codec(replace(config, slots=config.slots + 1))
    silence = config.silence
    if silence is None:
        silence = silence_codes(encoder, Slot(0), max(config.greeting_frames, SILENT_FRAMES))
    ready = Ready(codec_name(config), silence=None if config.codec == "loopback" else silence)
    return EncoderStage(encoder, silence, spare, progress=progress), ready, lambda: 0, frames_in


def _locate_speech(config: WorkerConfig, progress: ReportProgress) -> Files:
    """Return the files of the transcriber, which may not download. Raises CheckpointError if it could not load them."""
    from workers.checkpoints.locate import locate_stt
    from workers.transcriber.config import speech_config

    files = locate_stt(config.transcribe, config.cache, progress, config.quantize)
    speech_config(files)
    return files


def _engine(config: WorkerConfig, control: Link) -> Built:
    from workers.checkpoints.locate import locate
    from workers.engine.loopback import HASH_CHECKPOINT, HashEngine, HashWords, LoopbackEngine
    from workers.engine.stage import EngineStage

    def progress(what: str, done: int, total: int) -> None:
        control.send(Progress(what, done, total))

    if config.again:
        os.environ["HF_HUB_OFFLINE"] = "1"  # calls may wait: use the files of the first start
    loopback = config.engine == "loopback"
    files = None
    if not (loopback and config.codec == "loopback"):
        files = locate(config.checkpoint, config.cache, progress, config.quantize, config.lora)
    speech = _locate_speech(config, progress) if config.transcribe and files else None
    folder = speech.model.parent if speech else None
    mimi, slots = files.mimi if files else None, config.slots or (LOOPBACK_SLOTS if loopback else 0)
    if loopback:
        hashes = config.checkpoint == HASH_CHECKPOINT
        control.send(Prepared(mimi, slots, HASH_CHECKPOINT if hashes else "", folder))
        if hashes:
            hashing = HashEngine(config.loopback_step_s)
            return EngineStage(hashing, HashWords(), checkpoint=HASH_CHECKPOINT), Ready("hash"), int, frames_in
        return EngineStage(LoopbackEngine(config.loopback_step_s), None), Ready("loopback"), int, frames_in
    from workers.engine.digest import digest_of
    from workers.engine.memory import device_bytes
    from workers.engine.start import prompts_of, start_engine

    assert files is not None
    checkpoint = digest_of(files, config.quantize, config.context)
    if slots:
        control.send(Prepared(mimi, slots, checkpoint, folder))  # so that the codec loads meanwhile
    engine, tokenizer, note = start_engine(files, config, progress, speech)
    if not slots:
        control.send(Prepared(mimi, engine.slots, checkpoint, folder))
    prompts = prompts_of(engine, tokenizer, files, progress)
    stage = EngineStage(engine, tokenizer, prompts=prompts, checkpoint=checkpoint, progress=progress)
    return stage, Ready(note, engine.sampling), device_bytes, frames_in


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
