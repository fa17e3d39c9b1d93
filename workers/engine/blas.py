"""A faster BLAS for mlx on Linux CPUs.

Theory. mlx's wheel for Linux CPUs brings the reference BLAS, about 2 GFLOP/s; numpy's wheel brings OpenBLAS, 10 to 20
times as fast for float32, under names of its own. A dynamic linker takes a symbol from the first library that was
loaded for all to see: if that one offers `cblas_sgemm`, mlx uses it. So three lines of C pass the call on. They are
compiled once into the cache; the compiler is the one that `mx.compile` needs on a CPU anyway.

Nothing depends on it: where anything is missing, mlx computes the same with its own BLAS.
"""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = """
#include <stdint.h>
void scipy_cblas_sgemm64_(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                          const float *, int64_t, float, float *, int64_t);
void cblas_sgemm(int order, int turn_a, int turn_b, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) {
    scipy_cblas_sgemm64_(order, turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
"""


def use_openblas(cache: Path, threads: int = 1) -> bool:
    """Let mlx multiply with numpy's OpenBLAS on `threads` threads; return whether it will.

    Call it before anything imports mlx; `cache` is a folder to keep a small library in. Threads beyond one take cores
    away from the codec and wait busily.
    """
    library, compiler = _openblas(), shutil.which("cc") or shutil.which("g++")
    if library is None or compiler is None or "mlx.core" in sys.modules:
        return False
    try:
        ctypes.CDLL(str(_shim(library, compiler, cache)), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library)).scipy_openblas_set_num_threads64_(threads)
    except (OSError, AttributeError, subprocess.CalledProcessError):
        return False
    return True


def _openblas() -> Path | None:
    numpy = importlib.util.find_spec("numpy")
    if not sys.platform.startswith("linux") or numpy is None or numpy.origin is None:
        return None
    folder = Path(numpy.origin).parents[1] / "numpy.libs"
    return next(folder.glob("libscipy_openblas64_*.so"), None)


def _shim(library: Path, compiler: str, cache: Path) -> Path:
    """Return the library that renames, built when it is not there yet or belongs to another numpy."""
    shim = cache / f"{library.stem}-for-mlx.so"
    if not shim.exists():
        cache.mkdir(parents=True, exist_ok=True)
        source, building = shim.with_suffix(".c"), shim.with_suffix(".building")
        source.write_text(SOURCE)
        built = [compiler, "-shared", "-fPIC", "-O2", "-o", str(building), str(source)]
        command = [*built, str(library), f"-Wl,-rpath,{library.parent}"]
        subprocess.run(command, check=True, capture_output=True)
        building.rename(shim)
    return shim
