"""A faster BLAS for mlx on Linux CPUs.

Theory. mlx's wheel for Linux CPUs brings the reference BLAS, about 2 GFLOP/s; numpy's wheel brings OpenBLAS, 10 to 20
times as fast for float32, under names of its own. A dynamic linker takes a symbol from the first library that was
loaded for all to see: if that one offers `cblas_sgemm`, mlx uses it. So some lines of C pass the call on. They are
compiled once into the cache; the compiler is the one that `mx.compile` needs on a CPU anyway.

A few rows times a weight matrix as it is stored (outputs, inputs) is what a step consists of. OpenBLAS copies the whole
matrix into another order first, which takes longer than the product; below a million multiplications it does not. So
the C cuts such a product into tiles of that size (two to three times as fast at 4 rows, 1.5 times at 16). One row
needs no order at all: its products are sums along the rows of the matrix, limited by memory alone.

Nothing depends on it: where anything is missing, mlx computes the same with its own BLAS.
"""

import ctypes
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = """
#include <stdint.h>
enum { ROWS_FIRST = 101, AS_STORED = 111, TURNED = 112, MOST_ROWS = 64, TILE = 64, MOST_OUTPUTS = 1200 };
static const int64_t MOST_PRODUCTS = 1000000;
static int tiles = 1;

void use_tiles(int wanted) { tiles = wanted; }

void scipy_cblas_sgemm64_(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                          const float *, int64_t, float, float *, int64_t);
int scipy_openblas_get_num_threads64_(void);

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2,fma", "default")))
#endif
static void one_row(int64_t n, int64_t k, float alpha, const float *a, const float *b, int64_t ldb,
                    float beta, float *c) {
    for (int64_t j = 0; j < n; j += 4) {
        int64_t many = n - j < 4 ? n - j : 4;
        const float *b0 = b + j * ldb, *b1 = b0 + (many > 1) * ldb, *b2 = b1 + (many > 2) * ldb;
        const float *b3 = b2 + (many > 3) * ldb;
        float sum[4] = {0}, s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int64_t i = 0; i < k; i++) {
            s0 += a[i] * b0[i];
            s1 += a[i] * b1[i];
            s2 += a[i] * b2[i];
            s3 += a[i] * b3[i];
        }
        sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3;
        for (int64_t i = 0; i < many; i++)
            c[j + i] = alpha * sum[i] + (beta == 0 ? 0 : beta * c[j + i]);
    }
}

static void few_rows(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                     const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    int64_t tile = MOST_OUTPUTS / m < TILE ? MOST_OUTPUTS / m / 16 * 16 : TILE;
    int64_t depth = MOST_PRODUCTS / (m * tile) / 32 * 32;
    for (int64_t j = 0; j < n; j += tile)
        for (int64_t i = 0; i < k; i += depth)
            scipy_cblas_sgemm64_(ROWS_FIRST, AS_STORED, TURNED, m, n - j < tile ? n - j : tile,
                                 k - i < depth ? k - i : depth, alpha, a + i, lda, b + j * ldb + i, ldb,
                                 i ? 1 : beta, c + j, ldc);
}

void cblas_sgemm(int order, int turn_a, int turn_b, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) {
    int usual = order == ROWS_FIRST && turn_a == AS_STORED && turn_b == TURNED && k >= 32;
    usual = usual && tiles && scipy_openblas_get_num_threads64_() == 1;
    if (usual && m == 1)
        one_row(n, k, alpha, a, b, ldb, beta, c);
    else if (usual && m <= MOST_ROWS && (int64_t)m * n * k > MOST_PRODUCTS)
        few_rows(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    else
        scipy_cblas_sgemm64_(order, turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
"""
FLAGS = ("-shared", "-fPIC", "-O3", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math")

_lent: ctypes.CDLL | None = None


def is_lent() -> bool:
    """Tell whether mlx multiplies with OpenBLAS, which likes weights as they are stored."""
    return _lent is not None


def use_tiles(wanted: bool) -> None:
    """Cut products into tiles, as from the start, or pass them on as they are: for comparisons."""
    if _lent:
        _lent.use_tiles(wanted)


def use_openblas(cache: Path, threads: int = 1) -> bool:
    """Let mlx multiply with numpy's OpenBLAS on `threads` threads; return whether it will.

    Call it before anything imports mlx; `cache` is a folder to keep a small library in. Threads beyond one take cores
    away from the codec and wait busily.
    """
    library, compiler = _openblas(), shutil.which("cc") or shutil.which("g++")
    if library is None or compiler is None or "mlx.core" in sys.modules:
        return False
    global _lent
    try:
        shim = ctypes.CDLL(str(_shim(library, compiler, cache)), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library)).scipy_openblas_set_num_threads64_(threads)
    except (OSError, AttributeError, subprocess.CalledProcessError):
        return False
    _lent = shim
    return True


def _openblas() -> Path | None:
    numpy = importlib.util.find_spec("numpy")
    if not sys.platform.startswith("linux") or numpy is None or numpy.origin is None:
        return None
    folder = Path(numpy.origin).parents[1] / "numpy.libs"
    return next(folder.glob("libscipy_openblas64_*.so"), None)


def _shim(library: Path, compiler: str, cache: Path) -> Path:
    """Return the library between the two, built when it is not there yet or belongs to another numpy."""
    version = hashlib.sha256(SOURCE.encode()).hexdigest()[:8]
    shim = cache / f"{library.stem}-for-mlx-{version}.so"
    if not shim.exists():
        cache.mkdir(parents=True, exist_ok=True)
        source, building = shim.with_suffix(".c"), shim.with_suffix(".building")
        source.write_text(SOURCE)
        built = [compiler, *FLAGS, "-o", str(building), str(source)]
        command = [*built, str(library), f"-Wl,-rpath,{library.parent}"]
        subprocess.run(command, check=True, capture_output=True)
        building.rename(shim)
    return shim
