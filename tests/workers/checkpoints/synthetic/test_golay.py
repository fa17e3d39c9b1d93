import numpy as np

from workers.checkpoints.synthetic.golay import LENGTH, NUMBERS, PATTERNS


def test_a_pattern_matches_itself_fully_and_any_other_by_a_third_at_most() -> None:
    products = PATTERNS @ PATTERNS.T
    np.fill_diagonal(products, 0)
    assert PATTERNS.shape == (NUMBERS, LENGTH)
    assert set(np.unique(PATTERNS)) == {-1, 1}
    assert set(np.unique(products)) == {-8, 0, 8}


def test_number_0_is_all_plus() -> None:
    assert (PATTERNS[0] == 1).all()
