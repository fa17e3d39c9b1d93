from pathlib import Path

import pytest

from workers.transcriber.bench import measure


@pytest.mark.slow
def test_the_bench_has_a_figure_for_both_models(tmp_path: Path) -> None:
    found = measure("synthetic:random", "synthetic:stt:random", tmp_path, rows=2, steps=8)
    assert found["rows"] == 2
    for name in ("transcriber", "alone", "at_once", "after"):
        times = found[name]
        assert isinstance(times, dict)
        assert 0 < times["p50_ms"] <= times["p99_ms"]
