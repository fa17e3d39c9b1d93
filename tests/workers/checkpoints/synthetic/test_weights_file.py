from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from workers.checkpoints.synthetic.weights_file import LazyTensor, in_f32, to_bf16, write_weights

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "zeros": np.zeros((1000, 1000), np.float32)}


def test_it_is_read_back_as_it_was_and_zeros_take_no_space(tmp_path: Path) -> None:
    write_weights(tmp_path / "w", in_f32(WEIGHTS))
    read = load_file(tmp_path / "w")
    assert {name: array.tolist() for name, array in read.items()} == {n: a.tolist() for n, a in WEIGHTS.items()}
    assert (tmp_path / "w").stat().st_size > 4_000_000
    assert (tmp_path / "w").stat().st_blocks * 512 < 100_000


def test_bfloat16_rounds_as_mlx_does(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((100, 7), dtype=np.float32)
    values[0, :3] = 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8
    write_weights(tmp_path / "w.safetensors", {"v": LazyTensor("BF16", (100, 7), lambda: to_bf16(values))})
    read = mx.load(str(tmp_path / "w.safetensors"))["v"]  # type: ignore[call-overload]
    assert isinstance(read, mx.array)
    assert read.dtype == mx.bfloat16
    assert mx.array_equal(read, mx.array(values).astype(mx.bfloat16)).item()


def test_each_tensor_is_made_only_when_its_turn_comes(tmp_path: Path) -> None:
    order: list[object] = []

    def tensor(name: str) -> LazyTensor:
        return LazyTensor("F32", (2,), lambda: (order.append(name), np.ones(2, np.float32))[1])  # type: ignore[func-returns-value]

    write_weights(tmp_path / "w", {n: tensor(n) for n in "ab"}, lambda *news: order.append(news))
    assert order == ["a", ("w", 8, 16), "b", ("w", 16, 16)]


def test_a_tensor_of_another_shape_than_announced_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"^x"):
        write_weights(tmp_path / "w", {"x": LazyTensor("F32", (2,), lambda: np.ones(3, np.float32))})
