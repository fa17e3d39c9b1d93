"""A folder of files becomes an `Lm` that writes down speech."""

from moshi_mlx.models import Lm

from workers.checkpoints.files import Files, ReportProgress, report_nothing
from workers.engine.checkpoint import does_not_fit, fill
from workers.transcriber.config import SpeechConfig, speech_config, speech_header


def load_speech(
    files: Files, quantize: int | None = None, progress: ReportProgress = report_nothing
) -> tuple[Lm, SpeechConfig]:
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
    return lm, config
