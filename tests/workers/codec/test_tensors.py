from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.workers.codec.conftest import STAGES
from workers.checkpoints.mimi_layout import SHAPES
from workers.checkpoints.synthetic.weights_file import LazyTensor, to_bf16, write_weights
from workers.codec.tensors import Tensors, WeightsError
from workers.codec.weights import load
from workers.messages import SPEECH_CODEBOOKS, Stage

NUMBERS = np.resize(np.array([1.5, -2.25, 3.0e-3, 7.0e4], np.float32), 64)


NAME = "encoder.model.0.conv.conv.bias"


def written(path: Path, dtype: str, array: NDArray[np.generic] | None = None) -> Tensors:
    stored = array if array is not None else to_bf16(NUMBERS) if dtype == "BF16" else NUMBERS
    write_weights(path, {NAME: LazyTensor(dtype, stored.shape, lambda: stored)})
    return Tensors(path)


def test_both_ways_to_store_numbers(tmp_path: Path) -> None:
    assert written(tmp_path / "f32", "F32")[NAME].tolist() == NUMBERS.tolist()
    assert written(tmp_path / "bf16", "BF16")[NAME] == pytest.approx(NUMBERS, rel=2**-8)
    assert written(tmp_path / "bf16b", "BF16")[NAME].dtype == np.float32


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_is_no_mimi_not_there_or_cut_short(tmp_path: Path, mimi: Path, stage: Stage) -> None:
    written(tmp_path / "other", "F32")
    with pytest.raises(WeightsError, match="is missing"):
        load(stage, tmp_path / "other")
    with pytest.raises(WeightsError, match="cannot be read"):
        load(stage, tmp_path / "nothing")
    with mimi.open("rb") as file:
        (tmp_path / "half").write_bytes(file.read(1_000_000))
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load(stage, tmp_path / "half")


def test_a_tensor_of_another_shape_or_kind(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"shape \(2,\), Mimi's has \(64,\)"):
        written(tmp_path / "short", "F32", NUMBERS[:2])[NAME]
    with pytest.raises(WeightsError, match="stored as U32"):
        written(tmp_path / "u32", "U32", np.zeros(64, np.uint32))[NAME]


def test_everything_a_mimi_has_is_used_once(mimi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = Tensors.__getitem__

    def noted(self: Tensors, name: str) -> object:
        asked.append(name)
        return read(self, name)

    monkeypatch.setattr(Tensors, "__getitem__", noted)
    for stage in STAGES:
        load(stage, mimi, SPEECH_CODEBOOKS)
    assert {name for name in SHAPES if not name.endswith("_initialized")} == set(asked)
