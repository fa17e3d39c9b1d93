"""The shape of a Moshi: its `config.json`, and the tensors of its checkpoint with moshi_mlx's names."""

from dataclasses import asdict, dataclass

from workers.messages import CODEBOOKS, CODES

Shape = tuple[int, ...]

STREAMS = 2 * CODEBOOKS
DELAYS = [0, *([0] + [1] * 7) * 2]
"""In steps: the text's, then Moshi's 8 codebooks, then the caller's."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What tells one Moshi from another, by the names of config.json; `context` in steps.

    Widths of 64 n, 256 n for `dim`, can be quantised.
    """

    dim: int
    num_heads: int
    num_layers: int
    depformer_dim: int
    depformer_num_heads: int
    depformer_num_layers: int
    depformer_dim_feedforward: int
    text_card: int
    context: int = 3_000


TINY = Shapes(256, 4, 2, 64, 2, 2, 192, text_card=1_000)
MID = Shapes(1024, 16, 8, 512, 8, 4, 2112, text_card=4_000)
FULL = Shapes(4096, 32, 32, 1024, 16, 6, 4224, text_card=32_000)
"""The 7B model: `moshi_mlx.models.config_v0_1`."""


def config_of(shapes: Shapes) -> dict[str, object]:
    """Return what `moshi_mlx.models.LmConfig.from_config_dict` reads."""
    return asdict(shapes) | {
        "model_type": "moshi",
        "causal": True,
        "layer_scale": None,
        "max_period": 10_000,
        "positional_embedding": "rope",
        "depformer_pos_emb": "none",
        "dep_q": CODEBOOKS,
        "n_q": STREAMS,
        "card": CODES,
        "delays": DELAYS,
    }


def _transformer(name: str, dim: int, feed_forward: int, layers: int) -> dict[str, Shape]:
    """Return the layers; moshi_mlx derives the hidden width of the gated MLP from that of a plain one."""
    gate = 11 * dim // 4 if feed_forward == 4 * dim else 2 * feed_forward // 3
    shapes: dict[str, Shape] = {}
    for layer in range(layers):
        at = f"{name}.layers.{layer}"
        shapes |= {f"{at}.norm1.weight": (dim,), f"{at}.norm2.weight": (dim,)}
        shapes |= {f"{at}.self_attn.in_proj.weight": (3 * dim, dim), f"{at}.self_attn.out_proj.weight": (dim, dim)}
        shapes |= {f"{at}.gating.linear_in.weight": (2 * gate, dim), f"{at}.gating.linear_out.weight": (dim, gate)}
    return shapes


def main_tensors(shapes: Shapes, streams: int) -> dict[str, Shape]:
    """Return the tensors without those of the depformer, for so many streams of codes."""
    tensors: dict[str, Shape] = {
        "text_emb.weight": (shapes.text_card + 1, shapes.dim),
        "text_linear.weight": (shapes.text_card, shapes.dim),
        "out_norm.weight": (shapes.dim,),
    }
    tensors |= {f"audio_embs.{stream}.weight": (CODES + 1, shapes.dim) for stream in range(streams)}
    return tensors | _transformer("transformer", shapes.dim, 4 * shapes.dim, shapes.num_layers)


def tensors_of(shapes: Shapes, slices: int = CODEBOOKS) -> dict[str, Shape]:
    """Return every tensor's name and shape, (outputs, inputs) or (rows, width); the depformer has so many `slices`."""
    tensors = main_tensors(shapes, STREAMS)
    dim, feed_forward, layers = shapes.depformer_dim, shapes.depformer_dim_feedforward, shapes.depformer_num_layers
    for index in range(slices):
        name, card = f"depformer.slices.{index}", CODES if index else shapes.text_card
        tensors |= {f"{name}.emb.weight": (card + 1, dim), f"{name}.linear_in.weight": (dim, shapes.dim)}
        tensors |= {f"{name}.linear_out.weight": (CODES, dim)}
        tensors |= _transformer(f"{name}.transformer", dim, feed_forward, layers)
    return tensors
