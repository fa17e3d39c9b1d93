"""mlx multiplies with numpy's OpenBLAS, where it can be had; both run in a process of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workers.engine import blas

PROGRAM = """
import sys
from pathlib import Path
from workers.engine.blas import use_openblas
print(use_openblas(Path(sys.argv[1])))
import mlx.core as mx
mx.set_default_device(mx.cpu)
x = mx.arange(12.0).reshape(3, 4)
print((x @ x.T).tolist())
print(any("for-mlx" in line for line in open("/proc/self/maps")))
"""
PRODUCTS = "[[14.0, 38.0, 62.0], [38.0, 126.0, 214.0], [62.0, 214.0, 366.0]]"


def run(cache: Path, **environment: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, str(cache)]
    return subprocess.check_output(command, text=True, env=environment or None).splitlines()


needs_openblas = pytest.mark.skipif(
    blas._openblas() is None or shutil.which("cc") is None, reason="Linux with numpy's wheel and a C compiler"
)


@needs_openblas
def test_products_are_right_and_the_library_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path / "cache") == ["True", PRODUCTS, "True"]


SHAPES = [
    (rows, outputs, inputs) for rows in (1, 2, 16, 37, 64, 65) for outputs in (1, 7, 64, 1000) for inputs in (33, 1027)
]
COMPARISON = """
import sys
from pathlib import Path
from workers.engine.blas import use_openblas
assert use_openblas(Path(sys.argv[1]))
import mlx.core as mx
import numpy as np
mx.set_default_device(mx.cpu)
random = np.random.default_rng(0)
for rows, outputs, inputs in eval(sys.argv[2]):
    x = random.standard_normal((rows, inputs), np.float32)
    weight = random.standard_normal((outputs, inputs), np.float32)
    added = random.standard_normal((rows, outputs), np.float32)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    product = np.array(mx.array(x) @ mx.array(weight).T)
    with_sum = np.array(mx.addmm(mx.array(added), mx.array(x), mx.array(weight).T, alpha=0.5, beta=2.0))
    off = max(np.abs(product - exact).max(), np.abs(with_sum - (0.5 * exact + 2.0 * added)).max())
    assert off < 1e-5 * inputs, (rows, outputs, inputs, off)
print("equal")
"""


@needs_openblas
def test_products_of_every_shape_are_those_of_a_full_computation(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMPARISON, str(tmp_path), repr(SHAPES)]
    assert subprocess.check_output(command, text=True).strip() == "equal"


EXACTNESS = """
import sys
from pathlib import Path
import pytest
from workers.engine.blas import use_openblas
assert use_openblas(Path(sys.argv[1]))
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@needs_openblas
def test_with_it_the_engine_says_what_the_official_model_says(tmp_path: Path) -> None:
    exact = Path(__file__).with_name("test_engine.py")
    wanted = ["test_every_row_says_what_the_official_model_says_alone", "test_a_larger_model_packed_or_not"]
    command = [sys.executable, "-c", EXACTNESS, str(tmp_path), *(f"{exact}::{test}" for test in wanted)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_without_a_compiler_mlx_computes_by_itself(tmp_path: Path) -> None:
    said = run(tmp_path, PATH="/nonexistent")
    assert (said[0], said[2]) == ("False", "False")


def test_it_is_too_late_once_mlx_is_imported(tmp_path: Path) -> None:
    import mlx.core

    assert mlx.core is not None
    assert not blas.use_openblas(tmp_path)
