import asyncio

from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.calls.end_reason import EndReason
from app.calls.queue import ASKS_WITHIN_S, PAUSE_S, CallQueue
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
@example(3, [(call_sid, True) for call_sid in (ANN, BOB, EVE, ANN)])
@example(2, [(call_sid, True) for call_sid in (ANN, BOB, EVE, BOB)])
@settings(max_examples=30, deadline=None)  # each makes a manager
def test_whoever_enters_and_leaves_the_queue_keeps_its_length_and_order(
    longest: int, deeds: list[tuple[CallSid, bool]]
) -> None:
    async def run() -> None:
        full, expected = Full(longest), list[CallSid]()
        for call_sid, enters in deeds:
            has_place = call_sid in expected or len(expected) < longest
            if not enters:
                full.queue.leave(call_sid)
                expected = [sid for sid in expected if sid != call_sid]
            else:
                assert full.queue.enter(call_sid) is has_place
                expected += [call_sid] if has_place and call_sid not in expected else []
            assert len(full.queue) == len(expected) <= longest
            assert [sid for sid in (ANN, BOB, EVE) if sid in full.queue] == sorted(expected)
        assert [full.serve_next() for _ in [*expected, None]] == [*expected, None]

    asyncio.run(run())
