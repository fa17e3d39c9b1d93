"""From files on disk to a warm transcriber."""

import mlx.core as mx

from workers.checkpoints.files import ReportProgress, files_in
from workers.control_messages import TranscriberConfig
from workers.engine.memory import keep_resident
from workers.engine.text import Tokenizer
from workers.transcriber.checkpoint import load_speech
from workers.transcriber.stage import Timing, TranscriberStage
from workers.transcriber.transcriber import Transcriber


def start_transcriber(config: TranscriberConfig, progress: ReportProgress) -> tuple[TranscriberStage, str]:
    """Load, warm up, and return the stage and a note on what it runs on. Raises CheckpointError."""
    files = files_in(config.checkpoint, str(config.checkpoint), config.quantize, "TRANSCRIBE")
    lm, speech = load_speech(files, config.quantize, progress)
    transcriber = Transcriber(lm, config.slots)
    transcriber.warm(progress)
    keep_resident()
    timing = Timing(speech.delay_steps, speech.prefix_steps, config.silence)
    stage = TranscriberStage(transcriber, Tokenizer(files.tokenizer).decoder, timing)
    return stage, f"{config.checkpoint.name}, {config.slots} calls on {mx.default_device()}"
