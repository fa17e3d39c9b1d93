"""What a checkpoint of speech-to-text says about itself, and which ones are refused.

`kyutai/stt-1b-en_fr` and `kyutai/stt-2.6b-en`: the main transformer of a Moshi that reads all 32 codebooks of the
caller, none delayed, and has no depformer.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from moshi_mlx.models import LmConfig
from pydantic import BaseModel, Field, ValidationError

from workers.checkpoints.files import CheckpointError, Files, read_config
from workers.checkpoints.header import TensorInfo, read_header
from workers.engine.config import MainShape
from workers.engine.layout import mlx_header
from workers.messages import CODES, FRAME_S, SPEECH_CODEBOOKS
from workers.transcriber.words import SpeechTiming

_HINT = "take hf://kyutai/stt-1b-en_fr-mlx"
_DEPFORMER = ("dim", "num_heads", "num_layers", "dim_feedforward", "pos_emb")
_Seconds = Annotated[float, Field(ge=0, le=10)]


class _Timing(BaseModel):
    """`stt_config`: how far the text is behind the speech, and how much silence the model wants before a call."""

    audio_delay_seconds: _Seconds
    audio_silence_prefix_seconds: _Seconds = 0.0


class _SpeechShape(MainShape):
    n_q: Literal[SPEECH_CODEBOOKS]  # type: ignore[valid-type]
    card: Literal[CODES]  # type: ignore[valid-type]
    dep_q: Literal[0]
    delays: Annotated[list[Literal[0]], Field(min_length=1 + SPEECH_CODEBOOKS, max_length=1 + SPEECH_CODEBOOKS)]
    stt_config: _Timing


@dataclass(frozen=True, slots=True)
class SpeechConfig:
    """`lm` is the model's shape."""

    lm: LmConfig
    timing: SpeechTiming


def speech_header(files: Files) -> dict[str, TensorInfo]:
    """Return the tensors of the model, by moshi_mlx's names."""
    return mlx_header(read_header(files.model))


def speech_config(files: Files) -> SpeechConfig:
    """Return what config.json and the tensors say. Raises CheckpointError for what writes down no speech."""
    given = read_config(files.config, files.setting)
    if "stt_config" not in given:
        raise CheckpointError(f"{files.setting}: {files.model.parent} holds no speech-to-text; {_HINT}")
    try:
        shape = _SpeechShape.model_validate(given)
        lm = LmConfig.from_config_dict(_settings(given, files))
    except ValidationError as error:
        first = error.errors()[0]
        raise _refused(files, f"{first['loc'][0]} {first['input']!r:.80}: {first['msg']}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused(files, repr(error)) from error
    if shape.dim % shape.num_heads:
        raise _refused(files, "dim is not a multiple of num_heads")
    timing = shape.stt_config
    prefix_steps = -int(-timing.audio_silence_prefix_seconds // FRAME_S)
    return SpeechConfig(lm, SpeechTiming(round(timing.audio_delay_seconds / FRAME_S), prefix_steps))


def _settings(given: dict[str, Any], files: Files) -> dict[str, Any]:
    """Return what `LmConfig` reads: it wants to know of a depformer; the extra heads are those that are there."""
    heads = {name: tensor for name, tensor in speech_header(files).items() if re.match(r"extra_heads\.\d+\.w", name)}
    dim = next((tensor.shape[0] for tensor in heads.values()), 0)
    extra = {"extra_heads_num_heads": len(heads), "extra_heads_dim": dim}
    return {"layer_scale": None, **{f"depformer_{name}": None for name in _DEPFORMER}, **given, **extra}


def _refused(files: Files, reason: str) -> CheckpointError:
    return CheckpointError(f"{files.setting}: {files.config} describes no speech-to-text ({reason}); {_HINT}")
