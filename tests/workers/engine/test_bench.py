"""The bench measures what it says."""

from tests.workers.engine.small import ARGMAX, build
from workers.engine.bench import bench_engine
from workers.engine.prefill_bench import bench_prefill


def test_the_official_model_comes_first_and_a_ratio_is_of_steps_for_all_calls() -> None:
    official, two = bench_engine(build(), rows=(2,), steps=5, sampling=ARGMAX, context=64)
    assert (official["rows"], two["rows"], official["ratio"]) == (0, 2, 1)
    assert round(two["steps_per_s"] / official["steps_per_s"], 3) == round(two["ratio"], 3)
    assert all(0 < time["p50_ms"] <= time["p99_ms"] for time in (official, two))


def test_a_log_is_prefilled_as_a_whole_and_both_are_told_by_the_position() -> None:
    figures = bench_prefill(build(), ARGMAX, context=64, steps=200)
    assert figures["steps"] == 200
    assert round(figures["prefill_s"] * 1e3 / 200, 6) == round(figures["position_ms"], 6)
    assert round(figures["step_ms"] / figures["position_ms"], 6) == round(figures["ratio"], 6)
