import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.codec.render import DELAYS, caller_frames, moshi_frames
from workers.engine.streams import Streams
from workers.messages import CODEBOOKS, Slot

SLOT = Slot(0)


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 1_000))
def test_the_frames_are_those_that_the_engine_gave_out(stepped: list[bool], seed: int) -> None:
    """Whichever frames met no step."""
    rng, streams = np.random.default_rng(seed), Streams(1, (*DELAYS, *DELAYS), 0, 2_048)
    streams.open(SLOT)
    records = np.full((len(stepped), 17), -1, np.int16)
    wanted: list[list[int] | None] = []
    heard: list[list[int] | None] = []
    for number, steps in enumerate(stepped):
        if not steps:
            wanted.append(None)
            heard.append(None)
            continue
        drawn = rng.integers(0, 2_048, CODEBOOKS).astype(np.int32)
        caller = rng.integers(0, 2_048, CODEBOOKS).astype(np.int32)
        records[number] = [7, *drawn, *caller]
        completed = streams.advance(SLOT, 7, drawn)
        wanted.append(None if completed is None else completed.tolist())
        heard.append(caller.tolist())
    assert [None if frame is None else frame.tolist() for frame in moshi_frames(records)] == wanted
    assert [None if frame is None else frame.tolist() for frame in caller_frames(records)] == heard
