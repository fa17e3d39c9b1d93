"""A worker's life: get its configuration, build its station, say so, run the loop until the supervisor goes away."""

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable

from workers.checkpoint_files import CheckpointError, locate
from workers.codec.tensors import WeightsError
from workers.heap import settle
from workers.lines import log_uncaught_exceptions, start_process_logging
from workers.link import Link, LinkClosed
from workers.loop import Station, WorkerLoop
from workers.memory import MemoryShort
from workers.messages import Prepared, Progress, Ready, Refused, Stage, WorkerConfig

log = logging.getLogger(__name__)

EXIT_REFUSED = 2
LOOPBACK_SLOTS = 64


def main(descriptor: int) -> int:
    """Run one worker over the socket `descriptor`; return the exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the app, too, which ends this process
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    control = Link(socket.socket(fileno=descriptor))
    config = _wait_for_config(control)
    start_process_logging(f"{config.stage}-{config.index}", "INFO", config.log_format)
    log_uncaught_exceptions()
    try:
        station, note = _build(config, control)
    except (CheckpointError, MemoryShort, WeightsError) as error:
        control.send(Refused(str(error)))
        return EXIT_REFUSED
    except LinkClosed:  # told to stop while loading
        return 0
    settle()
    with contextlib.suppress(LinkClosed):  # the supervisor went away between two messages
        control.send(Ready(note))
        WorkerLoop(config, control, station, _device_bytes(config)).run()
    return 0


def _end_with_parent() -> None:
    """Standard input is the lifeline: it ends when the parent dies, however it dies."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


def _wait_for_config(control: Link) -> WorkerConfig:
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.select()
    config, *attach = control.receive()
    assert isinstance(config, WorkerConfig)
    assert not attach, "the supervisor attaches neighbours to ready workers only"
    return config


def _build(config: WorkerConfig, control: Link) -> tuple[Station, str]:
    match config.stage:
        case Stage.ENCODE:
            return _encoder(config)
        case Stage.DECODE:
            return _decoder(config)
        case Stage.STEP:
            return _engine(config, control)


def _device_bytes(config: WorkerConfig) -> Callable[[], int]:
    if config.stage is not Stage.STEP or config.engine == "loopback":
        return lambda: 0
    from workers.engine.memory import device_bytes

    return device_bytes


def _encoder(config: WorkerConfig) -> tuple[Station, str]:
    from workers.codec.door import codec_name, open_encoder, silence_codes
    from workers.codec.stations import EncoderStation

    encoder = open_encoder(config)
    silence = silence_codes(encoder, config.own_slots[0], config.greeting_frames)
    return EncoderStation(encoder, silence), codec_name(config)


def _decoder(config: WorkerConfig) -> tuple[Station, str]:
    from workers.codec.door import codec_name, open_decoder
    from workers.codec.stations import DecoderStation

    return DecoderStation(open_decoder(config)), codec_name(config)


def _engine(config: WorkerConfig, control: Link) -> tuple[Station, str]:
    from workers.engine.station import EngineStation

    def progress(what: str, done: int, total: int) -> None:
        control.send(Progress(what, done, total))

    if config.engine == "loopback" and config.codec == "loopback":
        files = None
    else:
        files = locate(config.checkpoint, config.cache, progress, config.quantize)
    mimi = files.mimi if files else None
    if config.engine == "loopback":
        from workers.engine.loopback import LoopbackEngine, NoPieces

        control.send(Prepared(mimi, config.slots or LOOPBACK_SLOTS))
        return EngineStation(LoopbackEngine(config.loopback_step_s), NoPieces), "loopback"
    assert files is not None
    if config.slots:
        control.send(Prepared(mimi, config.slots))  # so that the codec loads meanwhile
    from workers.engine.blas import use_openblas

    use_openblas(config.cache)  # before anything imports mlx
    from workers.engine.start import start_engine

    engine, pieces, note = start_engine(files, config, progress)
    if not config.slots:
        control.send(Prepared(mimi, engine.slots))
    return EngineStation(engine, pieces), note
