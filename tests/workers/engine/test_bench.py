"""The bench measures what it says."""

from tests.workers.engine.small import ARGMAX, build
from workers.engine.bench import bench_engine


def test_the_official_model_comes_first_and_is_the_measure() -> None:
    official, one, two = bench_engine(build(), rows=(1, 2), steps=5, sampling=ARGMAX, context=64)
    assert [time.rows for time in (official, one, two)] == [0, 1, 2]
    assert official.ratio == 1
    assert all(0 < time.p50_ms <= time.p99_ms for time in (official, one, two))


def test_a_ratio_is_of_steps_for_all_calls_against_the_turns_of_the_official_model_between_them() -> None:
    official, two = bench_engine(build(), rows=(2,), steps=5, sampling=ARGMAX, context=64)
    assert round(two.steps_per_s / official.steps_per_s, 3) == round(two.ratio, 3)
