"""From files on disk to a warm transcriber."""

import mlx.core as mx
from moshi_mlx.models import Lm

from workers.checkpoints.files import Files, ReportProgress, files_in, report_nothing
from workers.control_messages import TranscriberConfig
from workers.engine.checkpoint import does_not_fit, fill
from workers.engine.memory import keep_resident
from workers.engine.text import Tokenizer
from workers.transcriber.config import speech_config, speech_header
from workers.transcriber.stage import TranscriberStage
from workers.transcriber.transcriber import Transcriber
from workers.transcriber.words import SpeechTiming


def start_transcriber(config: TranscriberConfig, progress: ReportProgress) -> tuple[TranscriberStage, str]:
    """Load, warm up, and return the stage and a note on what it runs on. Raises CheckpointError."""
    files = files_in(config.checkpoint, str(config.checkpoint), config.quantize, "TRANSCRIBE")
    lm, timing = load_speech(files, config.quantize, progress)
    transcriber = Transcriber(lm, config.slots)
    transcriber.warm(progress)
    keep_resident()
    stage = TranscriberStage(transcriber, Tokenizer(files.tokenizer).decoder, timing, config.silence[-1])
    return stage, f"{config.checkpoint.name}, {config.slots} calls on {mx.default_device()}"


def load_speech(
    files: Files, quantize: int | None = None, progress: ReportProgress = report_nothing
) -> tuple[Lm, SpeechTiming]:
    """Load the weights; everything is evaluated on return. Raises CheckpointError.

    `quantize` (None, 4 or 8 bits) is for plain weights; those that are quantised already stay as they are.
    """
    config, tensors = speech_config(files), speech_header(files)
    try:
        lm = Lm(config.lm)
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise does_not_fit(files, error) from error
    quantised = any(name.endswith(".scales") for name in tensors)
    fill(lm, files, tensors, None if quantised else quantize, progress)
    return lm, config.timing
