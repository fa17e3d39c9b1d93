from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.playout_buffer import CONFIRMING_MARKS, FIRST_JITTER_S, JITTER_MEMORY_S, Jitter, PlayoutBuffer

FRAME, FRAME_S = 640, 0.08
START = 1_000.0


@dataclass
class Buffer:
    """Twilio's buffer at the end of a line that takes `there_s` and `back_s`: what really happens to what we send."""

    there_s: float = 0.03
    back_s: float = 0.02
    ends_s: float = 0.0
    marks: list[tuple[float, int]] = field(default_factory=list)
    """When each mark comes back to us, and its number."""

    @property
    def round_trip_s(self) -> float:
        return self.there_s + self.back_s

    def send(self, playout: PlayoutBuffer, now: float, samples: int = FRAME) -> float:
        """Send audio and a mark, on both sides; return how much the audio finds unplayed, below 0 if it is too late."""
        playout.send(samples, now)
        number, arrives_s = playout.mark(now), now + self.there_s
        buffered_s = self.ends_s - arrives_s
        self.ends_s = max(self.ends_s, arrives_s) + samples / 8_000
        self.marks.append((self.ends_s + self.back_s, number))
        return buffered_s

    def clear(self, playout: PlayoutBuffer, now: float) -> None:
        playout.clear(now)
        self.ends_s = now + self.there_s
        self.marks = [(self.ends_s + self.back_s, number) for _, number in self.marks]

    def return_marks(self, playout: PlayoutBuffer, now: float) -> None:
        """Bring back the marks that are due."""
        due = [mark for mark in self.marks if mark[0] <= now]
        self.marks = [mark for mark in self.marks if mark[0] > now]
        for back_s, number in due:
            playout.handle_mark(number, back_s)

    def buffered_s(self, now: float) -> float:
        return self.ends_s - now - self.there_s


def settled(buffer: Buffer, playout: PlayoutBuffer, frames: int = 10, ahead: int = 2) -> float:
    """Send frames, the first `ahead` at once and then one each 80 ms; return the time of the next one."""
    for number in range(frames):
        now = START + max(0, number - ahead + 1) * FRAME_S
        buffer.return_marks(playout, now)
        buffer.send(playout, now)
    return now + FRAME_S


def test_without_marks_the_buffered_audio_follows_from_what_was_sent() -> None:
    playout = PlayoutBuffer()
    assert playout.buffered_s(START) == 0.0
    playout.send(FRAME, START)
    playout.send(FRAME, START)
    assert playout.buffered_s(START) == pytest.approx(0.16)
    assert playout.buffered_s(START + 0.1) == pytest.approx(0.06)
    assert playout.buffered_s(START + 0.2) == pytest.approx(-0.04)


@pytest.mark.parametrize(("there_s", "back_s"), [(0.0, 0.0), (0.01, 0.01), (0.15, 0.05)])
def test_after_marks_the_buffered_audio_is_known_to_the_millisecond(there_s: float, back_s: float) -> None:
    buffer, playout = Buffer(there_s, back_s), PlayoutBuffer()
    now = settled(buffer, playout)
    buffer.return_marks(playout, now)
    assert playout.round_trip_s == pytest.approx(buffer.round_trip_s)
    assert playout.buffered_s(now) == pytest.approx(buffer.buffered_s(now), abs=0.001)


@given(
    st.floats(0, 0.2),
    st.floats(0, 0.2),
    st.lists(st.tuples(st.floats(0.0, 0.15), st.integers(1, 4)), min_size=1, max_size=60),
)
@settings(deadline=None)
def test_on_a_line_that_never_varies_the_prediction_is_right_whatever_is_sent(
    there_s: float, back_s: float, sent: list[tuple[float, int]]
) -> None:
    buffer, playout, now = Buffer(there_s, back_s), PlayoutBuffer(), START
    buffer.send(playout, now)
    buffer.return_marks(playout, now := now + 1.0)  # the first mark is back: the round trip is known
    for wait_s, packets in sent:
        now += wait_s
        buffer.return_marks(playout, now)
        assert playout.buffered_s(now) == pytest.approx(buffer.buffered_s(now), abs=1e-6)
        buffer.send(playout, now, packets * 160)


@pytest.mark.parametrize(
    ("late_s", "raised_s"),
    [
        ([-0.04], -0.04),  # an early one lowers it at once
        ([0.5], 0.0),
        ([0.3, 0.1], 0.0),
        ([0.3, 0.1, 0.2], 0.1),  # by the least of three in a row
        ([0.1, 0.1, 0.1, 0.15], 0.1),  # once
    ],
)
def test_late_marks_raise_the_prediction_when_there_are_three_in_a_row(late_s: list[float], raised_s: float) -> None:
    buffer, playout = Buffer(), PlayoutBuffer()
    now = settled(buffer, playout, ahead=CONFIRMING_MARKS + 3)
    buffer.return_marks(playout, now)
    before_s = playout.buffered_s(now)
    for (back_s, number), by_s in zip(buffer.marks, late_s, strict=False):
        playout.handle_mark(number, back_s + by_s)
    assert playout.buffered_s(now) == pytest.approx(before_s + raised_s)
    assert playout.round_trip_s == pytest.approx(buffer.round_trip_s)


def test_the_round_trip_is_known_from_a_mark_before_the_first_audio() -> None:
    buffer, playout = Buffer(), PlayoutBuffer()
    playout.handle_mark(playout.mark(START), START + buffer.round_trip_s)
    buffer.send(playout, START + 0.1)
    [(back_s, first)] = buffer.marks
    playout.handle_mark(first, back_s + 0.07)
    assert playout.known_round_trip_s == pytest.approx(buffer.round_trip_s)


def test_a_delayed_first_mark_is_corrected_by_the_second() -> None:
    buffer, playout = Buffer(), PlayoutBuffer()
    for _ in range(2):
        buffer.send(playout, START)
    (first_s, first), (second_s, second) = buffer.marks
    playout.handle_mark(first, first_s + 0.1)
    assert playout.round_trip_s == pytest.approx(buffer.round_trip_s + 0.1)
    playout.handle_mark(second, second_s)
    assert playout.buffered_s(START) + playout.round_trip_s == pytest.approx(
        buffer.buffered_s(START) + buffer.round_trip_s
    )


def test_a_late_start_of_the_playout_is_found_from_marks() -> None:
    """The prediction thinks that it plays already; the buffer is fuller than that."""
    buffer, playout = Buffer(), PlayoutBuffer()
    now = settled(buffer, playout)
    buffer.return_marks(playout, now)
    buffer.ends_s += 0.3
    for _ in range(12):
        buffer.send(playout, now)
        now += FRAME_S
        buffer.return_marks(playout, now)
    assert playout.buffered_s(now) == pytest.approx(buffer.buffered_s(now), abs=0.001)


def test_a_mark_confirms_all_before_it_and_counts_once() -> None:
    buffer, playout = Buffer(), PlayoutBuffer()
    now = settled(buffer, playout, ahead=4)
    buffer.return_marks(playout, now)
    buffered_s, (_, (back_s, number), *_) = playout.buffered_s(now), buffer.marks
    playout.handle_mark(number, back_s)
    assert playout.buffered_s(now) == pytest.approx(buffered_s)
    for stale in range(number + 1):
        playout.handle_mark(stale, back_s - 5.0)
    assert playout.buffered_s(now) == pytest.approx(buffered_s)


def test_after_a_clear_nothing_is_buffered_and_cleared_marks_are_ignored() -> None:
    buffer, playout = Buffer(), PlayoutBuffer()
    now = settled(buffer, playout, ahead=8)
    buffer.return_marks(playout, now)
    assert playout.buffered_s(now) > 0.4
    buffer.clear(playout, now)
    assert playout.buffered_s(now) == pytest.approx(0.0)
    cleared_s = now
    buffer.send(playout, cleared_s)
    buffer.return_marks(playout, cleared_s + buffer.round_trip_s)
    assert playout.buffered_s(cleared_s) == pytest.approx(FRAME_S)
    buffer.return_marks(playout, cleared_s + 1.0)
    assert playout.buffered_s(cleared_s) == pytest.approx(FRAME_S), "the mark of what was sent since then does"


def jitter(*late: tuple[float, float], first_s: float = FIRST_JITTER_S) -> Jitter:
    one = Jitter(first_s)
    for now, late_s in late:
        one.add(late_s, now)
    return one


@pytest.mark.parametrize(
    ("late", "jitter_s"),
    [
        ([], FIRST_JITTER_S),
        ([(10.0, 0.4)], FIRST_JITTER_S),  # a single stall
        ([(10.0, 0.4), (12.0, 0.002)], 0.002),
        ([(10.0, 0.03), (12.0, 0.05), (14.0, 0.01)], 0.03),
        ([(10.0, 0.1), (10.08, 0.4), (10.16, 0.3), (12.0, 0.02)], 0.02),  # late in a row: one event
        ([(10.0, 0.1), (10.08, 0.4), (10.16, 0.3), (12.0, 0.2), (12.08, 0.5)], 0.4),
        ([(10.0, -0.05), (12.0, -0.02)], FIRST_JITTER_S),
    ],
)
def test_jitter_is_the_second_largest_lateness(late: list[tuple[float, float]], jitter_s: float) -> None:
    assert jitter(*late).jitter_s == jitter_s


def test_the_first_jitter_is_expected_for_a_minute() -> None:
    one = jitter((10.0, 0.0), (12.0, 0.0), (14.0, 0.0), first_s=0.02)
    assert one.jitter_s == 0.02
    one.add(0.0, 10.0 + JITTER_MEMORY_S)
    assert one.jitter_s == 0.0


def test_after_a_minute_jitter_is_forgotten() -> None:
    one = jitter((10.0, 0.03), (12.0, 0.05))
    for now in (30.0, 50.0, 69.9):
        one.add(0.0, now)
    assert one.jitter_s == 0.03
    one.add(0.0, 10.0 + JITTER_MEMORY_S + 0.1)
    assert one.jitter_s == 0.0
