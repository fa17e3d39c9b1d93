"""The delays, against a record of everything that was ever said."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.delay_pattern import Streams
from workers.messages import Slot

START, PADDING = 400, 2048
MOSHI = [0, 1, 1, 1, 1, 1, 1, 1] * 2
NOTHING = [START] + [PADDING] * 16
SLOT, OTHER = Slot(1), Slot(0)


def oracle(text: list[int], own: list[list[int]], heard: list[list[int]], delays: list[int]) -> list[int]:
    """Return what is read at step len(text): by frame, from the whole past, as the theory says."""
    step = len(text)
    read = [text[-1] if text else START]
    for codebook, delay in enumerate(delays[:8]):
        frame = step - 1 - delay
        read.append(own[frame + delay][codebook] if frame >= 0 else PADDING)
    for codebook, delay in enumerate(delays[8:]):
        frame = step - delay
        read.append(heard[frame][codebook] if frame >= 1 else PADDING)
    return read


@settings(max_examples=30)
@given(delays=st.lists(st.integers(0, 4), min_size=16, max_size=16), reads=st.integers(1, 3))
def test_every_token_is_read_at_its_step(delays: list[int], reads: int) -> None:
    """In a slot's second call too, and however often it is read while it sits out."""
    streams, random = Streams(2, delays, START, PADDING), np.random.default_rng(0)
    for _ in range(2):
        streams.open(SLOT)
        text: list[int] = []
        own: list[list[int]] = []
        heard: list[list[int]] = []
        for step in range(12):
            frame = random.integers(0, 2048, 8).astype(np.int32)
            heard.append(frame.tolist())
            streams.write(SLOT, frame)
            for _ in range(reads):
                assert streams.read(2).tolist() == [NOTHING, oracle(text, own, heard, delays)]
            text.append(step)
            own.append(random.integers(0, 2048, 8).tolist())
            codes = streams.advance(SLOT, step, np.array(own[-1], np.int32))
            done = step - max(delays[:8])
            whole = [own[done + delay][codebook] for codebook, delay in enumerate(delays[:8])] if done >= 0 else None
            assert (None if codes is None else codes.tolist()) == whole
