import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.codec.render import DELAYS, caller_frames, moshi_frames
from workers.engine.delay_pattern import Streams
from workers.messages import CODEBOOKS, Slot


def listed(frame: np.ndarray[tuple[int], np.dtype[np.int32]] | None) -> list[int] | None:
    return None if frame is None else frame.tolist()


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 1_000))
def test_the_frames_are_those_that_the_engine_gave_out(stepped: list[bool], seed: int) -> None:
    """Whichever frames met no step."""
    rng, streams = np.random.default_rng(seed), Streams(1, (*DELAYS, *DELAYS), 0, 2_048)
    records = np.full((len(stepped), 17), -1, np.int16)
    wanted: list[tuple[list[int] | None, list[int] | None]] = [(None, None)] * len(stepped)
    for number in np.flatnonzero(stepped):
        drawn, caller = rng.integers(0, 2_048, (2, CODEBOOKS)).astype(np.int32)
        records[number] = [7, *drawn, *caller]
        wanted[number] = listed(streams.advance(Slot(0), 7, drawn)), caller.tolist()
    frames = zip(moshi_frames(records), caller_frames(records), strict=True)
    assert [(listed(moshi), listed(caller)) for moshi, caller in frames] == wanted
