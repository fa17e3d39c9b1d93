"""What a checkpoint's config.json says about the model, what follows from its tensors, and which models are refused.

Without a config, or with one that does not give the shape (PersonaPlex's), it is the published Moshi 7B. Widths, depths
and vocabularies are then those of the tensors, and a head is as wide as in the 7B: 128 in the transformer, 64 in the
depformer.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from moshi_mlx.models import LmConfig
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from workers.checkpoints.files import CheckpointError, Files, read_config
from workers.checkpoints.header import TensorInfo, read_header
from workers.engine.layout import SLICES, has_16_slices, mlx_header

HEAD, DEPFORMER_HEAD = 128, 64
HIDDEN_SCALE = 4.125
"""The width of the gated MLP in terms of `dim`: the only one that moshi_mlx knows."""
_OTHER_KINDS = {
    "hibiki": "translates speech",
    "tts": "reads text aloud",
    "stt": "writes down speech",
    "kame": "needs a language model beside it",
    "moshi_rag": "needs a search engine beside it",
    "moshi_vis": "needs images",
}
"""`model_type` of relatives that are not for dialogue by phone."""
_OTHER_TENSORS = {
    "condition_provider": "is steered by conditions (Hibiki, MoshiRAG, text to speech)",
    "cross_attention": "reads something else beside speech, images say (MoshiVis)",
    "image_prefix": "needs images (MoshiVis)",
    "weight_scb": "is quantised by bitsandbytes, for CUDA in PyTorch only; take its MLX or bf16 version",
}
"""What a part of a tensor's name says about the model."""
_Size = Annotated[int, Field(strict=True, gt=0, le=1_000_000)]
_Layers = Annotated[int, Field(strict=True, gt=0, le=1_000)]
_Delay = Annotated[int, Field(strict=True, ge=0, le=1_000)]


def _text_is_not_delayed(delays: list[int]) -> list[int]:
    if delays[0]:
        raise ValueError("the text must not be delayed")
    return delays


def _is_known_scale(scale: float) -> float:
    if scale != HIDDEN_SCALE:
        raise ValueError(f"must be {HIDDEN_SCALE}")
    return scale


class MainShape(BaseModel):
    """What config.json must say of the main transformer; with other numbers `Lm` would compute too, or never end.

    What stands below `positional_embedding` is ignored by `LmConfig.from_config_dict`, which builds the one model
    described here.
    """

    dim: _Size
    num_heads: _Size
    num_layers: _Layers
    context: _Size
    max_period: Annotated[float, Field(strict=True, gt=0)]
    card: _Size
    text_card: _Size
    positional_embedding: Literal["rope"]
    cross_attention: Literal[False] = False
    demux_second_stream: Literal[False] = False
    conditioners: Annotated[dict[str, Any], Field(max_length=0)] = {}
    causal: Literal[True] = True
    hidden_scale: Annotated[float, AfterValidator(_is_known_scale)] = HIDDEN_SCALE
    kv_repeat: Literal[1] = 1
    rope_concat: Literal[False] = False
    norm: Literal["rms_norm_f32"] = "rms_norm_f32"
    gating: Literal["silu"] = "silu"
    existing_text_padding_id: Literal[3] = 3
    existing_text_end_padding_id: Literal[0] = 0


class _DialogueShape(MainShape):
    """What config.json must say for the batched step of Moshi; the published one has 32,000 words and 32 layers.

    In `delays` that of the text comes first. What stands below `delays` is ignored, as in `MainShape`.
    """

    n_q: Literal[16]
    depformer_dim: _Size
    depformer_num_heads: _Size
    depformer_num_layers: _Layers
    depformer_dim_feedforward: _Size
    dep_q: Literal[8, 16]
    depformer_pos_emb: Literal["none"]
    delays: Annotated[list[_Delay], Field(min_length=17, max_length=17), AfterValidator(_text_is_not_delayed)]
    depformer_kv_repeat: Literal[1] = 1
    depformer_norm: Literal["rms_norm_f32"] = "rms_norm_f32"
    depformer_gating: Literal["silu"] = "silu"
    depformer_multi_linear: Literal[True] = True
    depformer_weights_per_step: Literal[True] = True
    depformer_weights_per_step_schedule: None = None
    depformer_layer_scale: None = None
    depformer_context: Annotated[int, Field(ge=SLICES)] | None = None


def model_header(files: Files) -> dict[str, TensorInfo]:
    """Return the tensors of the model, by moshi_mlx's names. Raises CheckpointError for another model's file."""
    tensors = read_header(files.model)
    for part, what in _OTHER_TENSORS.items():
        if any(part in name for name in tensors):
            raise CheckpointError(f"MOSHI_CHECKPOINT: {files.model.name} {what}; take a Moshi for dialogue")
    header = mlx_header(tensors)
    if "out_norm.weight" not in header:
        hint = "neither Kyutai's PyTorch layout nor MLX's; fetch the checkpoint anew"
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.model} holds no Moshi ({hint})")
    if not any(name.startswith("depformer.") for name in header):
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.model.name} does not speak; take a Moshi for dialogue")
    return header


def config_of(files: Files) -> LmConfig:
    """Return the shape of the model, with 8 slices: that of config.json or of the tensors. Raises CheckpointError."""
    given = read_config(files.config)
    if isinstance(kind := given.get("model_type"), str) and kind in _OTHER_KINDS:
        raise CheckpointError(f"MOSHI_CHECKPOINT: {kind} {_OTHER_KINDS[kind]}; take a Moshi for dialogue")
    settings = given if "dim" in given else shape_in(model_header(files), files) | given
    if settings.get("depformer_dim_feedforward", 0) is None and isinstance(settings.get("depformer_dim"), int):
        settings = settings | {"depformer_dim_feedforward": int(HIDDEN_SCALE * settings["depformer_dim"])}
    try:
        shape = _DialogueShape.model_validate(settings)
        config = LmConfig.from_config_dict({"layer_scale": None, **settings, "dep_q": SLICES})
    except ValidationError as error:
        first = error.errors()[0]
        raise no_moshi(files, f"{first['loc'][0]} {first['input']!r:.80}: {first['msg']}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise no_moshi(files, repr(error)) from error
    if shape.dim % shape.num_heads or shape.depformer_dim % shape.depformer_num_heads:
        raise no_moshi(files, "a width is not a multiple of its heads")
    return config


def takes_prompts(files: Files) -> bool:
    """Whether the model was trained with voice and text prompts: PersonaPlex, known by its slices or by its config."""
    return has_16_slices(read_header(files.model)) or read_config(files.config).get("model_type") == "personaplex"


def shape_in(header: Mapping[str, TensorInfo], files: Files) -> dict[str, Any]:
    """Return the config.json of a model with these tensors. Raises CheckpointError when they are not those of one."""
    layer = "depformer.slices.0.transformer.layers.0"
    try:
        dim, depformer_dim = header["out_norm.weight"].shape[0], header[f"{layer}.norm1.weight"].shape[0]
        gate = header[f"{layer}.gating.linear_in.weight"].shape[0] // 2
        card, text_card = header["audio_embs.0.weight"].shape[0] - 1, header["text_linear.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"MOSHI_CHECKPOINT: {files.model} holds no whole Moshi ({error} is missing)") from error
    # moshi_mlx makes the gated MLP two thirds as wide as a plain one, but for one of 4 * dim: 11/4 * dim
    feed_forward = 4 * depformer_dim if gate == 11 * depformer_dim // 4 else -(-3 * gate // 2)
    return {
        "dim": dim,
        "num_heads": max(1, dim // HEAD),
        "num_layers": _count(header, r"transformer\.layers\.(\d+)\."),
        "causal": True,
        "context": 3_000,
        "max_period": 10_000,
        "positional_embedding": "rope",
        "card": card,
        "text_card": text_card,
        "n_q": _count(header, r"audio_embs\.(\d+)\."),
        "delays": [0, *([0] + [1] * 7) * 2],
        "dep_q": SLICES,
        "depformer_dim": depformer_dim,
        "depformer_num_heads": max(1, depformer_dim // DEPFORMER_HEAD),
        "depformer_num_layers": _count(header, r"depformer\.slices\.0\.transformer\.layers\.(\d+)\."),
        "depformer_dim_feedforward": feed_forward,
        "depformer_max_period": 10_000,
        "depformer_pos_emb": "none",
    }


def no_moshi(files: Files, reason: str) -> CheckpointError:
    what = files.config or files.model
    return CheckpointError(f"MOSHI_CHECKPOINT: {what} does not describe a Moshi ({reason}); take a Moshi for dialogue")


def _count(header: Mapping[str, TensorInfo], pattern: str) -> int:
    """Return how many numbers stand at this place in the names."""
    return len({found[1] for name in header if (found := re.match(pattern, name))})
