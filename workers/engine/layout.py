"""The tensors of a Moshi's file by the names that moshi_mlx gives them: which part of the file each of them is.

Files come in MLX's layout and in PyTorch's. In PyTorch's the depformer is one transformer whose weights differ from
slice to slice, written in two ways: stacked (`self_attn.in_proj_weight`, all slices on top of one another) and apart
(`self_attn.in_projs.{i}.weight`). Kyutai's loader (`_load_hook` in moshi/modules/transformer.py) turns the first into
the second; in the main transformer there is one weight either way.

PersonaPlex has 16 slices, of which 8 to 15 predict the caller. A slice sees only those before it, so that Moshi's own
speech is the same without them, and they are left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx

from workers.checkpoints.header import TensorInfo
from workers.messages import CODEBOOKS

Shape = tuple[int, ...]
SLICES = CODEBOOKS
_SLICE = "depformer.slices."
_NUMBERED = re.compile(r"\.(\d+)\.")
_LAST_SLICES = ("depformer_in.15.weight", f"{_SLICE}15.linear_in.weight")


@dataclass(frozen=True, slots=True)
class Part:
    """Of a file's tensor `name`, the rows of part `index` when it is cut into `count` equal ones."""

    name: str
    index: int = 0
    count: int = 1

    def shape(self, whole: Shape) -> Shape:
        """Return the shape of the part; PyTorch's norms are (1, 1, dim), MLX's (dim,)."""
        return whole[-1:] if self.name.endswith(".alpha") else (*(rows // self.count for rows in whole[:1]), *whole[1:])

    def extract(self, whole: mx.array) -> mx.array:
        """Return the part. What was stacked is copied, so that the rest of it can be freed."""
        if self.name.endswith(".alpha"):
            return whole.reshape(-1)
        if self.count == 1:
            return whole
        rows = mx.arange(whole.shape[0] // self.count) + self.index * (whole.shape[0] // self.count)
        return mx.take(whole, rows, axis=0)


def has_16_slices(names: Mapping[str, object]) -> bool:
    """Whether the file predicts the caller too, as PersonaPlex's does."""
    return any(name in names for name in _LAST_SLICES)


def is_pytorch(names: Mapping[str, object]) -> bool:
    return "out_norm.alpha" in names


def parts_of(shapes: Mapping[str, Shape], pytorch: bool) -> dict[str, Part]:
    """Return where each tensor of the model is in a file, by moshi_mlx's names, without slices 8 to 15.

    `shapes` are those in the file. A name that is unknown stays as it is, for the model to refuse it.
    """
    found = [pair for name, shape in shapes.items() for pair in (_parts(name, shape) if pytorch else _same(name))]
    return {name: part for name, part in found if _slice_of(name) < SLICES}


def mlx_header(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return a file's tensors as they will be in the model."""
    parts = parts_of({name: tensor.shape for name, tensor in tensors.items()}, is_pytorch(tensors))
    wholes = {name: tensors[part.name] for name, part in parts.items()}
    return {name: TensorInfo(whole.dtype, parts[name].shape(whole.shape)) for name, whole in wholes.items()}


def mlx_tensors(tensors: Mapping[str, mx.array], pytorch: bool) -> dict[str, mx.array]:
    """Return the tensors of the model, from those of a file."""
    parts = parts_of({name: tensor.shape for name, tensor in tensors.items()}, pytorch)
    return {name: part.extract(tensors[part.name]) for name, part in parts.items()}


def _slice_of(name: str) -> int:
    number = _NUMBERED.search(name) if name.startswith(_SLICE) else None
    return int(number[1]) if number else 0


def _same(name: str) -> Iterator[tuple[str, Part]]:
    yield name, Part(name)


def _parts(name: str, shape: Shape) -> Iterator[tuple[str, Part]]:
    """Yield what one tensor of a file in PyTorch's layout is to the model, by moshi_mlx's names."""
    match name.split("."):
        case ["emb", stream, *rest]:
            yield ".".join(["audio_embs", stream, *rest]), Part(name)
        case ["depformer_in", index, *rest]:
            yield ".".join([f"{_SLICE}{index}.linear_in", *rest]), Part(name)
        case ["linears", index, *rest]:
            yield ".".join([f"{_SLICE}{index}.linear_out", *rest]), Part(name)
        case ["depformer_text_emb", *rest]:
            yield ".".join([f"{_SLICE}0.emb", *rest]), Part(name)
        case ["depformer_emb", index, *rest] if index.isdecimal():
            yield ".".join([f"{_SLICE}{int(index) + 1}.emb", *rest]), Part(name)
        case ["depformer", "layers", layer, norm, "alpha"]:
            yield from ((f"{_SLICE}{i}.transformer.layers.{layer}.{norm}.weight", Part(name)) for i in range(SLICES))
        case ["depformer", "layers", layer, "gating", index, *rest]:
            yield ".".join([f"{_SLICE}{index}.transformer.layers.{layer}.gating", *rest]), Part(name)
        case ["depformer", "layers", layer, "self_attn", *rest]:
            for slice_, target, part in _projections(name, rest, shape):
                yield f"{_SLICE}{slice_}.transformer.layers.{layer}.self_attn.{target}", part
        case ["transformer", "layers", layer, "self_attn", *rest]:
            for _, target, part in _projections(name, rest, shape):
                yield f"transformer.layers.{layer}.self_attn.{target}", part
        case [*before, "alpha"]:
            yield ".".join([*before, "weight"]), Part(name)
        case _:
            yield name, Part(name)


def _projections(name: str, rest: list[str], shape: Shape) -> Iterator[tuple[int, str, Part]]:
    """Yield the slice, the name and the part of each projection in a tensor.

    How many are stacked follows from the shape: a projection into attention has three times as many rows as columns,
    one out of it as many. What has no such shape stays as it is, for the model to refuse it.
    """
    match rest:
        case ["in_projs" | "out_projs" as projections, index, "weight"] if index.isdecimal():
            yield int(index), f"{projections[:-1]}.weight", Part(name)
        case ["in_proj_weight"] | ["in_proj" | "out_proj", "weight"] if shape:
            projection = rest[0].removesuffix("_weight")
            rows = shape[-1] * (3 if projection == "in_proj" else 1)
            count = shape[0] // rows if rows and shape[0] % rows == 0 else 1
            yield from ((index, f"{projection}.weight", Part(name, index, count)) for index in range(count))
        case _:
            yield 0, ".".join(rest), Part(name)
