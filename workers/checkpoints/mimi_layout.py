"""The tensors of a Mimi checkpoint with its 32 codebooks: PyTorch's names and shapes, as rustymimi reads them.

24 kHz PCM, four strided convolutions (4, 5, 6, 8), two positions of 512 channels a frame, a transformer, a downsampling
by 2, the quantizers; and the same way back. Source: moshi_mlx.models.mimi.Mimi.load_pytorch_weights.
"""

from workers.messages import CODES, SPEECH_CODEBOOKS

Shape = tuple[int, ...]

STRIDES = (4, 5, 6, 8)
"""Of the encoder, first to last; the decoder's are in reverse."""
CHANNELS = (64, 128, 256, 512, 1024)
DIM = 512
"""Channels of a position, of which a frame has two."""
HEADS = 8
HEAD_DIM = DIM // HEADS
LAYERS = 8
CODE_DIM = 256
GROUPS = {"rvq_first": range(1), "rvq_rest": range(1, SPEECH_CODEBOOKS)}
"""The codebooks of each quantizer: the first has one of its own, the others share one. Moshi uses the first eight."""
_FEED_FORWARD = 2_048


def codebook_name(codebook: int) -> str:
    """Return the prefix of a codebook's tensors."""
    group, index = ("rvq_first", 0) if codebook == 0 else ("rvq_rest", codebook - 1)
    return f"quantizer.{group}.vq.layers.{index}._codebook"


def _conv(name: str, out: int, channels: int, kernel: int) -> dict[str, Shape]:
    return {f"{name}.conv.conv.weight": (out, channels, kernel), f"{name}.conv.conv.bias": (out,)}


def _residual(name: str, channels: int) -> dict[str, Shape]:
    half = channels // 2
    return _conv(f"{name}.block.1", half, channels, 3) | _conv(f"{name}.block.3", channels, half, 1)


def _encoder() -> dict[str, Shape]:
    shapes = _conv("encoder.model.0", CHANNELS[0], 1, 7)
    for index, stride in enumerate(STRIDES):
        shapes |= _residual(f"encoder.model.{3 * index + 1}", CHANNELS[index])
        shapes |= _conv(f"encoder.model.{3 * index + 3}", CHANNELS[index + 1], CHANNELS[index], 2 * stride)
    return shapes | _conv("encoder.model.14", DIM, CHANNELS[-1], 3)


def _decoder() -> dict[str, Shape]:
    shapes = _conv("decoder.model.0", CHANNELS[-1], DIM, 7)
    for index, stride in enumerate(reversed(STRIDES)):
        wide, narrow = CHANNELS[-1 - index], CHANNELS[-2 - index]
        name = f"decoder.model.{3 * index + 2}.convtr.convtr"
        shapes |= {f"{name}.weight": (wide, narrow, 2 * stride), f"{name}.bias": (narrow,)}
        shapes |= _residual(f"decoder.model.{3 * index + 3}", narrow)
    return shapes | _conv("decoder.model.14", 1, CHANNELS[0], 3)


def _transformer(name: str) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for layer in range(LAYERS):
        at = f"{name}.transformer.layers.{layer}"
        shapes |= {f"{at}.self_attn.in_proj_weight": (3 * DIM, DIM), f"{at}.self_attn.out_proj.weight": (DIM, DIM)}
        shapes |= {f"{at}.linear1.weight": (_FEED_FORWARD, DIM), f"{at}.linear2.weight": (DIM, _FEED_FORWARD)}
        for part in (1, 2):
            vectors = f"{at}.norm{part}.weight", f"{at}.norm{part}.bias", f"{at}.layer_scale_{part}.scale"
            shapes |= dict.fromkeys(vectors, (DIM,))
    return shapes


def _quantizers() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for group in GROUPS:
        shapes[f"quantizer.{group}.input_proj.weight"] = (CODE_DIM, DIM, 1)
        shapes[f"quantizer.{group}.output_proj.weight"] = (DIM, CODE_DIM, 1)
    for name in map(codebook_name, range(SPEECH_CODEBOOKS)):
        shapes |= {f"{name}._initialized": (1,), f"{name}.cluster_usage": (CODES,)}
        shapes[f"{name}.embedding_sum"] = (CODES, CODE_DIM)
    return shapes


SHAPES: dict[str, Shape] = (
    _encoder()
    | _decoder()
    | _transformer("encoder_transformer")
    | _transformer("decoder_transformer")
    | {"downsample.conv.conv.conv.weight": (DIM, DIM, 4), "upsample.convtr.convtr.convtr.weight": (DIM, 1, 4)}
    | _quantizers()
)
