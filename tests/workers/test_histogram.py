from hypothesis import given
from hypothesis import strategies as st

from workers.histogram import FRAME_BOUNDS_S, Histogram


@given(st.lists(st.floats(0, 10)))
def test_every_value_is_counted_once_and_not_above_its_bound(values: list[float]) -> None:
    histogram = Histogram((0.5, 1.0, 2.0))
    for value in values:
        histogram.add(value)
    assert histogram.counts == [
        sum(value <= 0.5 for value in values),
        sum(0.5 < value <= 1.0 for value in values),
        sum(1.0 < value <= 2.0 for value in values),
        sum(value > 2.0 for value in values),
    ]
    assert histogram.total == sum(values)
    assert histogram.count == len(values)


def test_clocks_that_disagree_do_not_make_the_sum_smaller() -> None:
    histogram = Histogram()
    histogram.add(-1e-6)
    assert (histogram.count, histogram.total, histogram.counts[0]) == (1, 0.0, 1)


def test_the_80_ms_of_a_frame_are_a_bound() -> None:
    assert 0.08 in FRAME_BOUNDS_S
