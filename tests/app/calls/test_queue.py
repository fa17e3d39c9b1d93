import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from app.calls.queue import ASKS_WITHIN_S, PAUSE_S, CallQueue
from app.calls.record import EndReason
from app.config import read_settings
from app.twilio.events import CallSid
from app.twilio.public_address import PublicAddress
from tests.app.calls.front import ANN, BOB, EVE, KIM, Front


class Full:
    """A manager whose one slot is taken, and the queue in front of it."""

    def __init__(self, longest: int = 5) -> None:
        self.now_s = 0.0
        self.manager = Front(max_calls=1).manager
        public = PublicAddress(read_settings(engine="loopback", codec="loopback"))
        self.queue = CallQueue(self.manager, longest, None, public, lambda: self.now_s)
        self.manager.reserve(KIM)

    def serve_next(self) -> CallSid | None:
        """End the call that is on; return whose slot it is now."""
        for call in self.manager.calls:
            call.end(EndReason.CALLER_HUNG_UP)
        return next((call.session.record.call_sid for call in self.manager.calls), None)


async def test_the_slot_goes_to_the_caller_who_came_first_and_asking_again_keeps_the_place() -> None:
    full = Full()
    assert all(full.queue.enter(call_sid) for call_sid in (ANN, BOB, EVE, ANN))
    assert len(full.queue) == 3
    assert [full.serve_next() for _ in range(4)] == [ANN, BOB, EVE, None]


async def test_a_full_queue_admits_only_those_who_are_in_it() -> None:
    full = Full(longest=2)
    assert [full.queue.enter(call_sid) for call_sid in (ANN, BOB, EVE, BOB)] == [True, True, False, True]
    full.queue.leave(ANN)
    assert (ANN in full.queue, BOB in full.queue, full.queue.enter(EVE)) == (False, True, True)
    assert full.serve_next() == BOB


async def test_a_caller_whose_page_is_not_asked_for_again_has_left() -> None:
    full = Full(longest=2)
    full.queue.enter(ANN)
    full.queue.enter(BOB)
    full.now_s = ASKS_WITHIN_S
    full.queue.enter(BOB)
    full.now_s += 1
    assert full.queue.enter(EVE)
    assert full.serve_next() == BOB
    assert ASKS_WITHIN_S >= 3 * PAUSE_S, "a page may be late"


@given(st.integers(0, 3), st.lists(st.tuples(st.sampled_from([ANN, BOB, EVE]), st.booleans()), max_size=20))
@settings(max_examples=30, deadline=None)  # each makes a manager
def test_whoever_enters_and_leaves_the_queue_keeps_its_length_and_order(
    longest: int, deeds: list[tuple[CallSid, bool]]
) -> None:
    async def run() -> None:
        full, expected = Full(longest), list[CallSid]()
        for call_sid, enters in deeds:
            if not enters:
                full.queue.leave(call_sid)
                expected = [sid for sid in expected if sid != call_sid]
            elif full.queue.enter(call_sid) and call_sid not in expected:
                expected.append(call_sid)
            assert len(full.queue) == len(expected) <= longest
        assert [full.serve_next() for _ in expected] == expected

    asyncio.run(run())
