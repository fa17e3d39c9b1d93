from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from workers.checkpoints.synthetic.mimi_layout import SHAPES
from workers.checkpoints.synthetic.weights_file import Tensor, to_bf16, write_weights
from workers.codec.prepare import load_decoder, load_encoder
from workers.codec.tensors import Tensors, WeightsError

NUMBERS = np.array([[1.5, -2.25], [3.0e-3, 7.0e4]], np.float32)


def written(path: Path, dtype: str) -> Tensors:
    array = to_bf16(NUMBERS) if dtype == "BF16" else NUMBERS
    write_weights(path, {"x": Tensor(dtype, (2, 2), lambda: array)})
    return Tensors(path)


def test_both_ways_to_store_numbers(tmp_path: Path) -> None:
    assert written(tmp_path / "f32", "F32")["x"].tolist() == NUMBERS.tolist()
    assert written(tmp_path / "bf16", "BF16")["x"] == pytest.approx(NUMBERS, rel=2**-8)
    assert written(tmp_path / "f32b", "F32")["x"].dtype == written(tmp_path / "bf16b", "BF16")["x"].dtype == np.float32


@pytest.mark.parametrize("load", [load_encoder, load_decoder])
def test_a_file_that_is_no_mimi(tmp_path: Path, load: Callable[[Path], object]) -> None:
    written(tmp_path / "other", "F32")
    with pytest.raises(WeightsError, match="is missing"):
        load(tmp_path / "other")


def test_a_file_that_is_not_there_or_cut_short(tmp_path: Path, mimi: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder(tmp_path / "nothing")
    (tmp_path / "half").write_bytes(mimi.read_bytes()[:1_000_000])
    with pytest.raises(WeightsError, match="cut short"):
        load_encoder(tmp_path / "half")


def test_a_tensor_of_another_shape_or_kind(tmp_path: Path) -> None:
    tensors = written(tmp_path / "f32", "F32")
    with pytest.raises(WeightsError, match=r"shape \(2, 2\), Mimi's has \(4, 1\)"):
        tensors.shaped("x", 4, 1)
    write_weights(tmp_path / "u32", {"x": Tensor("U32", (1,), lambda: np.zeros(1, np.uint32))})
    with pytest.raises(WeightsError, match="stored as U32"):
        Tensors(tmp_path / "u32")["x"]


def test_everything_a_mimi_has_is_used_once(mimi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = Tensors.__getitem__

    def noted(self: Tensors, name: str) -> object:
        asked.append(name)
        return read(self, name)

    monkeypatch.setattr(Tensors, "__getitem__", noted)
    load_encoder(mimi)
    load_decoder(mimi)
    assert {name for name in SHAPES if not name.endswith("_initialized")} == set(asked)
