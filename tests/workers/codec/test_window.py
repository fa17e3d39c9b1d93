import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.codec.state import ENTRIES, attention_mask, rotation

SEEN = 251


def held(position: int) -> list[int]:
    """Return the position that each entry of a ring holds after a frame at `position`; below 0 there is none."""
    ring = [-1] * ENTRIES
    for written in range(max(0, position + 2 - ENTRIES), position + 2):
        ring[written % ENTRIES] = written
    return ring


@given(frames=st.lists(st.integers(0, 2_000), min_size=1, max_size=5))
def test_each_position_sees_itself_and_the_250_before_it(frames: list[int]) -> None:
    positions = np.array(frames, np.int64) * 2
    for position, mask in zip(positions.tolist(), attention_mask(positions)[:, 0], strict=True):
        for own, row in zip((position, position + 1), mask, strict=True):
            seen = {entry for entry, cost in zip(held(position), row.tolist(), strict=True) if cost == 0}
            assert seen == set(range(max(0, own - SEEN + 1), own + 1))


@given(frames=st.integers(0, 10**12), back=st.integers(0, SEEN))
def test_how_far_two_positions_are_turned_apart_does_not_depend_on_the_time(frames: int, back: int) -> None:
    now, then, start = (np.array([2 * (frames + more)]) for more in (back, 0, -frames))
    (cos, sin), (cos_then, sin_then) = rotation(now), rotation(then)
    apart = rotation(start + 2 * back)[0]
    assert np.allclose(cos * cos_then + sin * sin_then, apart[:, :1], atol=1e-3 if frames > 10**9 else 1e-5)
