import numpy as np

from workers.checkpoints.synthetic.written_lm import LENGTH, PATTERNS
from workers.messages import CODES


def test_a_pattern_matches_itself_fully_and_any_other_by_a_third_at_most() -> None:
    products = PATTERNS @ PATTERNS.T
    np.fill_diagonal(products, 0)
    assert PATTERNS.shape == (CODES, LENGTH)
    assert set(np.unique(PATTERNS)) == {-1, 1}
    assert (PATTERNS[0] == 1).all()
    assert set(np.unique(products)) == {-8, 0, 8}
