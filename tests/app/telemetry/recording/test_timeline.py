import itertools
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.mulaw import SILENCE
from app.telemetry.recording.timeline import Channel, Piece, Timeline

ZERO_S = 1_000.0
PACKET = 160
TOLERANCE = 8
"""A millisecond."""
QUIET = bytes([SILENCE])


def sound(number: int, length: int = PACKET) -> bytes:
    return bytes([number % 200]) * length


def at(samples: float) -> float:
    return ZERO_S + samples / 8_000


def hear(timeline: Timeline, number: int, late: int = 0) -> list[Piece]:
    """Let packet `number` come so many samples after its last one was spoken."""
    return timeline.place_inbound(number * PACKET, at((number + 1) * PACKET + late), sound(number))


def test_the_caller_is_where_they_spoke() -> None:
    timeline = Timeline(ZERO_S)
    for number in range(100):
        assert hear(timeline, number) == [Piece(Channel.CALLER, number * PACKET, sound(number))]
    assert [piece.begin for piece in hear(timeline, 140)] == [140 * PACKET], "what was never sent is silence"


def test_what_a_stall_brings_late_is_where_it_was_spoken() -> None:
    timeline = Timeline(ZERO_S)
    for number in range(1_000):
        late = max(0, 300 * PACKET - number * PACKET) if number > 50 else 0
        assert [piece.begin for piece in hear(timeline, number, late)] == [number * PACKET]


def test_timestamps_that_are_rounded_make_no_seams() -> None:
    timeline = Timeline(ZERO_S)
    pieces = [
        piece
        for number in range(500)
        for piece in timeline.place_inbound(
            number * PACKET + number % 7, at((number + 1) * PACKET + number % 3), sound(number)
        )
    ]
    assert all(before.end == after.begin for before, after in itertools.pairwise(pieces))


def test_a_first_packet_that_was_late_is_put_right_by_the_next() -> None:
    timeline = Timeline(ZERO_S)
    assert hear(timeline, 0, late=100) == [Piece(Channel.CALLER, 100, sound(0))]
    assert hear(timeline, 1) == [Piece(Channel.CALLER, PACKET + 100, sound(1)[100:])]
    assert hear(timeline, 2) == [Piece(Channel.CALLER, 2 * PACKET, sound(2))]


def test_a_line_that_has_become_slower_is_believed_after_a_while() -> None:
    timeline = Timeline(ZERO_S)
    ends = [hear(timeline, number, late=0 if number < 100 else 800)[0].end for number in range(600)]
    assert ends[120] == 121 * PACKET
    assert ends[-1] == 600 * PACKET + 800


def test_moshi_is_where_it_is_heard_and_a_gap_that_the_caller_hears_is_recorded() -> None:
    timeline = Timeline(ZERO_S)
    for number, begin in enumerate((2_000, 2_000 + PACKET, 2_100 + 2 * PACKET)):
        assert timeline.place_outbound(sound(number), at(begin)) == [Piece(Channel.MOSHI, begin, sound(number))]


def test_an_estimate_that_varies_a_little_makes_no_seams() -> None:
    timeline = Timeline(ZERO_S)
    timeline.place_outbound(sound(1), at(0))
    for number in range(1, 50):
        (piece,) = timeline.place_outbound(sound(number), at(number * PACKET + (-1) ** number * TOLERANCE))
        assert (piece.begin, piece.payload) == (number * PACKET, sound(number))


def test_what_turns_out_to_be_heard_earlier_loses_its_beginning() -> None:
    timeline = Timeline(ZERO_S)
    timeline.place_outbound(sound(1), at(50))
    assert timeline.place_outbound(sound(2), at(PACKET)) == [Piece(Channel.MOSHI, PACKET + 50, sound(2)[50:])]


def test_no_piece_of_moshis_is_lost_however_wrong_the_estimate_was() -> None:
    timeline = Timeline(ZERO_S)
    timeline.place_outbound(sound(1, 8_000), at(0))
    pieces = [timeline.place_outbound(sound(number), at(number)) for number in range(20)]
    assert all(len(piece.payload) >= PACKET // 2 for (piece,) in pieces)


def test_what_is_cleared_before_it_is_heard_becomes_silence() -> None:
    timeline = Timeline(ZERO_S)
    timeline.place_outbound(sound(1, 1_000), at(0))
    assert timeline.clear(at(300)) == [Piece(Channel.MOSHI, 300, QUIET * 700)]
    assert timeline.place_outbound(sound(2), at(310))[0].begin == 310
    assert timeline.clear(at(9_000)) == []


moments = st.floats(-1.0, 20.0).map(lambda seconds: ZERO_S + seconds)
heard = st.tuples(st.just("hear"), st.integers(-200_000, 200_000), moments, st.integers(0, 400))
said = st.tuples(st.just("say"), st.just(0), moments, st.integers(0, 1_300))
cleared = st.tuples(st.just("clear"), st.just(0), moments, st.just(0))


def play(happened: list[tuple[str, int, float, int]]) -> Iterator[tuple[str, Piece]]:
    timeline = Timeline(ZERO_S)
    for what, begin, moment_s, length in happened:
        if what == "hear":
            pieces = timeline.place_inbound(begin, moment_s, bytes(length))
        elif what == "say":
            pieces = timeline.place_outbound(bytes(length), moment_s)
        else:
            pieces = timeline.clear(moment_s)
        yield from ((what, piece) for piece in pieces)


@settings(max_examples=50)
@given(st.lists(heard | said | cleared))
def test_no_place_is_given_out_twice_and_nothing_lies_later_than_it_came_or_was_heard(
    happened: list[tuple[str, int, float, int]],
) -> None:
    """Except what was cleared; so nobody can make a recording longer than the call."""
    ends = dict.fromkeys(Channel, 0)
    for what, piece in play(happened):
        assert piece.payload
        assert piece.begin >= 0
        latest = 20 * 8_000 + TOLERANCE + sum(length for kind, _, _, length in happened if kind == what)
        assert piece.end <= latest or what == "clear"
        if what == "clear":
            assert (piece.channel, piece.end) == (Channel.MOSHI, ends[Channel.MOSHI])
            ends[Channel.MOSHI] = piece.begin
        else:
            assert piece.begin >= ends[piece.channel]
            ends[piece.channel] = piece.end
