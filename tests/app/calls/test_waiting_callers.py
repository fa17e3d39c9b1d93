from hypothesis import given
from hypothesis import strategies as st

from app.calls.waiting_callers import HEARD_WITHIN_S, PAUSE_S, WaitingCallers
from app.twilio.events import CallSid

ANN, BOB, EVE = CallSid("CAann"), CallSid("CAbob"), CallSid("CAeve")


def line(*call_sids: CallSid, longest: int = 5) -> WaitingCallers:
    waiting = WaitingCallers(longest)
    assert all(waiting.join(call_sid, 0.0) for call_sid in call_sids)
    return waiting


def test_who_came_first_is_called_first() -> None:
    waiting = line(ANN, BOB, EVE)
    assert [waiting.call_next(1.0) for _ in range(4)] == [ANN, BOB, EVE, None]


def test_who_is_heard_of_again_keeps_his_place() -> None:
    waiting = line(ANN, BOB)
    assert waiting.join(ANN, 5.0)
    assert len(waiting) == 2
    assert waiting.call_next(6.0) == ANN


def test_who_hangs_up_leaves_the_line() -> None:
    waiting = line(ANN, BOB)
    waiting.leave(ANN)
    waiting.leave(EVE)
    assert (ANN in waiting, BOB in waiting) == (False, True)
    assert waiting.call_next(1.0) == BOB


def test_a_full_line_takes_nobody_but_those_who_are_in_it() -> None:
    waiting = line(ANN, BOB, longest=2)
    assert not waiting.join(EVE, 1.0)
    assert waiting.join(BOB, 1.0)
    waiting.leave(ANN)
    assert waiting.join(EVE, 2.0)
    assert waiting.call_next(3.0) == BOB


def test_a_caller_of_whom_nothing_is_heard_has_left() -> None:
    waiting = line(ANN, BOB, longest=2)
    waiting.join(BOB, HEARD_WITHIN_S)
    assert waiting.join(EVE, HEARD_WITHIN_S + 1)
    assert waiting.call_next(HEARD_WITHIN_S + 1) == BOB


def test_a_wait_page_may_come_late_a_few_times_before_its_caller_is_taken_to_be_gone() -> None:
    assert HEARD_WITHIN_S >= 3 * PAUSE_S


@given(st.integers(0, 3), st.lists(st.tuples(st.sampled_from([ANN, BOB, EVE]), st.booleans()), max_size=20))
def test_whoever_comes_and_goes_the_line_is_never_too_long_and_its_order_is_that_of_coming(
    longest: int, deeds: list[tuple[CallSid, bool]]
) -> None:
    waiting, expected = WaitingCallers(longest), list[CallSid]()
    for call_sid, joins in deeds:
        if not joins:
            waiting.leave(call_sid)
            expected = [sid for sid in expected if sid != call_sid]
        elif waiting.join(call_sid, 0.0) and call_sid not in expected:
            expected.append(call_sid)
        assert len(waiting) == len(expected) <= longest
    assert [waiting.call_next(0.0) for _ in expected] == expected
