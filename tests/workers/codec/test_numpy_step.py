import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.codec.numpy_step import Matrix, NumpyOps, TiledMatrix, has_openblas, plain_matrix
from workers.codec.state import CodecState
from workers.codec.tensors import F32
from workers.codec.weights import Linear, Norm


@pytest.fixture(scope="module")
def ops() -> NumpyOps:
    return NumpyOps(CodecState.allocate(1, 0, lambda shape: np.zeros(shape, np.float32)), np.array([0]))


def random(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


@pytest.mark.parametrize("matrix", [TiledMatrix, plain_matrix])
@settings(max_examples=10)
@given(rows=st.integers(1, 70), depth=st.sampled_from([7, 64, 8_192]), out=st.sampled_from([1, 32, 64, 192]))
def test_a_product_is_the_product_in_any_layout(
    matrix: Callable[[F32], Matrix], rows: int, depth: int, out: int
) -> None:
    x, weight = random(rows, depth), random(depth, out)
    assert np.allclose(matrix(weight)(x), x @ weight, atol=1e-5 * depth)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("scipy-openblas", True), ("openblas64", True), ("accelerate", False), ("mkl-sdl", False), ("blas", False)],
)
def test_tiles_are_for_openblas_only(monkeypatch: pytest.MonkeyPatch, name: str, expected: bool) -> None:
    """The names that `numpy.show_config` has in the wheels for Linux and macOS, in Debian's and in conda's packages."""
    assert np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    config = {"Build Dependencies": {"blas": {"name": name, "found": True}}}
    monkeypatch.setattr(np, "show_config", lambda mode: config)
    assert has_openblas() is expected
    config.clear()
    assert not has_openblas()


@given(rows=st.integers(2, 40), more=st.integers(0, 40))
def test_a_row_comes_out_the_same_in_whatever_company(rows: int, more: int) -> None:
    x, tiles = random(rows + more, 512), TiledMatrix(random(512, 192))
    assert np.allclose(tiles(x)[:rows], tiles(x[:rows]), rtol=0, atol=1e-5)


def test_a_single_row_keeps_its_shape(ops: NumpyOps) -> None:
    layer = Linear(TiledMatrix(random(64, 128)), random(128))
    assert ops.linear(random(1, 64), layer).shape == (1, 128)
    assert ops.linear(random(3, 5, 64), layer).shape == (3, 5, 128)


def test_elu(ops: NumpyOps) -> None:
    x = np.array([-200, -1, -1e-6, 0, 1e-6, 3], np.float32)
    assert ops.elu(x) == pytest.approx([math.expm1(v) if v < 0 else v for v in x.tolist()], rel=1e-6)


def test_gelu(ops: NumpyOps) -> None:
    x = np.linspace(-12, 12, 999, dtype=np.float32)
    wanted = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    assert np.allclose(ops.gelu(x), wanted, rtol=0, atol=1e-6)


def test_layer_norm(ops: NumpyOps) -> None:
    x, norm = random(2, 512) * 3 + 1, Norm(random(512), random(512))
    wanted = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * norm.weight + norm.bias
    assert np.allclose(ops.layer_norm(x, norm), wanted, atol=1e-5)
