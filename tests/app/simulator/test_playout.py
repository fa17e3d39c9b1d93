import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.mulaw import SILENCE
from app.simulator.playout import MAX_BUFFERED_S, BufferLevel, PlayoutModel, ReturnedMark, Underrun

QUIET = bytes([SILENCE])
A, B = b"\x01", b"\x02"
CLEAR = b""


@pytest.mark.parametrize(
    ("arrivals", "underruns", "heard"),
    [
        ([(A * 640, 1.0), (B * 640, 1.06)], [], A * 640 + B * 640),
        ([(A * 160, 1.0), (B * 160, 1.03)], [Underrun(1.02, 0.01)], A * 160 + QUIET * 80 + B * 160),
        ([(A * 160, 1.0), (B * 160, 0.5)], [], A * 160 + B * 160),
        ([(A * 640, 1.0), (CLEAR, 1.02), (B * 160, 1.5)], [], A * 160 + QUIET * 3840 + B * 160),
        ([(A * 160, 1.0), (CLEAR, 1.03), (B * 160, 1.04)], [Underrun(1.02, 0.02)], A * 160 + QUIET * 160 + B * 160),
    ],
    ids=["queued", "too late", "time never goes back", "the silence after a clear is wanted", "a clear of nothing"],
)
def test_what_is_heard_and_which_gaps_are_underruns(
    arrivals: list[tuple[bytes, float]], underruns: list[Underrun], heard: bytes
) -> None:
    playout = PlayoutModel()
    for payload, now in arrivals:
        if payload is CLEAR:
            playout.clear(now)
        else:
            playout.receive(payload, now)
    assert playout.heard(60.0) == QUIET * 8000 + heard.ljust(59 * 8000, QUIET)
    assert playout.underruns == underruns, "silence before the first and after the last sound is no gap"


def test_the_level_of_the_buffer_is_known_when_audio_arrives() -> None:
    playout = PlayoutModel()
    playout.receive(A * 640, 0.0)
    playout.receive(B * 640, 0.06)
    assert playout.buffer_levels == [BufferLevel(0.0, 0.0), BufferLevel(0.06, 0.02)]


def test_marks_come_back_when_the_audio_before_them_has_been_heard() -> None:
    playout = PlayoutModel()
    playout.receive(A * 640, 0.5)
    playout.mark("first", 0.5)
    playout.receive(B * 160, 0.5)
    playout.mark("second", 0.5)
    assert playout.next_mark_s() == 0.58
    assert playout.advance(0.57) == []
    assert playout.advance(0.58) == ["first"]
    assert playout.advance(1.0) == ["second"]
    assert playout.next_mark_s() == math.inf
    assert playout.returned == [
        ReturnedMark("first", 0.5, 0.58, cleared=False),
        ReturnedMark("second", 0.5, 1.0, cleared=False),
    ]


def test_more_than_ten_minutes_are_thrown_away() -> None:
    playout = PlayoutModel()
    playout.receive(A * 8000 * MAX_BUFFERED_S, 0.0)
    playout.receive(B, 0.0)
    assert playout.discarded_samples == 1
    playout.receive(B, 0.001)
    assert playout.discarded_samples == 1


arrivals = st.lists(
    st.tuples(st.integers(0, 2_000), st.sampled_from(["audio", "mark", "clear", "advance"]), st.integers(0, 1_000)),
    max_size=30,
)


@given(arrivals)
def test_the_model_is_what_a_buffer_does_sample_by_sample(steps: list[tuple[int, str, int]]) -> None:
    """Against the plain thing: a list of samples and marks, taken one sample at a time."""
    playout = PlayoutModel()
    queue: list[int | str] = []
    heard, returned, expected = bytearray(), list[str](), list[tuple[str, bool]]()
    cursor = 0

    def return_marks() -> None:
        while queue and isinstance(queue[0], str):
            expected.append((str(queue.pop(0)), False))

    for number, (wait, kind, length) in enumerate(steps):
        for _ in range(wait):
            return_marks()
            heard.append(int(queue.pop(0)) if queue else SILENCE)
        return_marks()
        cursor += wait
        now = cursor / 8000
        returned += playout.advance(now)
        if kind == "audio":
            payload = bytes((number + i) % 255 for i in range(length))
            playout.receive(payload, now)
            queue += payload
        elif kind == "mark":
            playout.mark(str(number), now)
            queue.append(str(number))
        elif kind == "clear":
            returned += playout.clear(now)
            expected += [(item, True) for item in queue if isinstance(item, str)]
            queue.clear()
    assert playout.heard(cursor / 8000) == bytes(heard)
    return_marks()
    assert returned + playout.advance(cursor / 8000) == [name for name, _ in expected]
    assert [(mark.name, mark.cleared) for mark in playout.returned] == expected
    assert playout.buffered_s(cursor / 8000) * 8000 == pytest.approx(sum(isinstance(item, int) for item in queue))
