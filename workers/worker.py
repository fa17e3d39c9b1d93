"""A worker process: wait for its configuration, build its stage, report ready, run the loop until told to stop."""

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable

from workers.checkpoints.files import CheckpointError
from workers.checkpoints.locate import locate
from workers.codec.tensors import WeightsError
from workers.gc_freeze import freeze_gc
from workers.lines import log_uncaught_exceptions, start_process_logging
from workers.link import Link, LinkClosed
from workers.loop import FrameProcessor, WorkerLoop
from workers.memory import MemoryShort
from workers.messages import Prepared, Progress, Ready, Slot, Stage, StartRefused, WorkerConfig

EXIT_REFUSED = 2
LOOPBACK_SLOTS = 64


def main(control_fd: int, upstream_fd: int, downstream_fd: int) -> int:
    """Run one worker over three inherited sockets; return the exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the app, too, which ends this process
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    control, upstream, downstream = (Link(socket.socket(fileno=fd)) for fd in (control_fd, upstream_fd, downstream_fd))
    try:
        config = _wait_for_config(control)
        start_process_logging(config.stage, "INFO", config.log_format)
        log_uncaught_exceptions()
        stage, note = _build(config, control)
        freeze_gc()
        control.send(Ready(note))
    except (CheckpointError, MemoryShort, WeightsError) as error:
        with contextlib.suppress(LinkClosed):
            control.send(StartRefused(str(error)))
        return EXIT_REFUSED
    except LinkClosed:  # told to stop while it waited or loaded
        return 0
    WorkerLoop(config.stage, control, upstream, downstream, stage, _device_bytes(config)).run()
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


def _build(config: WorkerConfig, control: Link) -> tuple[FrameProcessor, str]:
    """Return the stage, and a note on what it runs on."""
    match config.stage:
        case Stage.ENCODE:
            return _encoder(config)
        case Stage.DECODE:
            return _decoder(config)
        case Stage.STEP:
            return _engine(config, control)


def _encoder(config: WorkerConfig) -> tuple[FrameProcessor, str]:
    from workers.codec.choose import codec_name, open_codec
    from workers.codec.codec import silence_codes
    from workers.codec.stages import EncoderStage

    encoder = open_codec(config)
    silence = silence_codes(encoder, Slot(0), config.greeting_frames)
    return EncoderStage(encoder, silence), codec_name(config)


def _decoder(config: WorkerConfig) -> tuple[FrameProcessor, str]:
    from workers.codec.choose import codec_name, open_codec
    from workers.codec.stages import DecoderStage

    return DecoderStage(open_codec(config), config.greeting_frames), codec_name(config)


def _engine(config: WorkerConfig, control: Link) -> tuple[FrameProcessor, str]:
    from workers.engine.stage import EngineStage

    def progress(what: str, done: int, total: int) -> None:
        control.send(Progress(what, done, total))

    loopback = config.engine == "loopback"
    files = None
    if not (loopback and config.codec == "loopback"):
        files = locate(config.checkpoint, config.cache, progress, config.quantize)
    mimi, slots = files.mimi if files else None, config.slots or (LOOPBACK_SLOTS if loopback else 0)
    if slots:
        control.send(Prepared(mimi, slots))  # so that the codec loads meanwhile
    if loopback:
        from workers.engine.loopback import LoopbackEngine

        return EngineStage(LoopbackEngine(config.loopback_step_s), lambda: lambda token: ""), "loopback"
    from workers.engine.start import start_engine

    assert files is not None
    engine, text_decoder, note = start_engine(files, config, progress)
    if not slots:
        control.send(Prepared(mimi, engine.slots))
    return EngineStage(engine, text_decoder), note


def _device_bytes(config: WorkerConfig) -> Callable[[], int]:
    if config.stage is not Stage.STEP or config.engine == "loopback":
        return lambda: 0
    from workers.engine.memory import device_bytes

    return device_bytes
