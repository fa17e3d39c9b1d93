from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from app.calls.admission import TTL_S, Admission, Reservation
from app.twilio.events import CallSid

ANN, BOB, EVE = CallSid("CAann"), CallSid("CAbob"), CallSid("CAeve")


def reserved(admission: Admission, call_sid: CallSid, now: float = 0.0) -> Reservation:
    reservation = admission.reserve(call_sid, now)
    assert reservation is not None
    return reservation


def test_a_slot_is_reserved_claimed_once_with_its_token_and_released() -> None:
    admission = Admission(2)
    ann, bob = reserved(admission, ANN), reserved(admission, BOB)
    assert (ann.slot, bob.slot, admission.reserve(EVE, 0.0)) == (0, 1, None)
    assert [admission.claim(token, 1.0) for token in ("guess", "", ann.token, ann.token)] == [None, None, ann, None]
    assert admission.claim(bob.token, TTL_S) is None, "a token expires"
    admission.release(bob)
    assert admission.claim(bob.token, 1.0) is None
    admission.release(ann)
    assert (admission.free_slots, reserved(admission, EVE).slot) == (2, 0), "the lowest free slot is the first"


def test_a_slot_that_is_released_twice_is_not_taken_from_the_next_call() -> None:
    admission = Admission(1)
    ann = reserved(admission, ANN)
    admission.release(ann)
    admission.release(ann)
    assert admission.free_slots == 1
    bob = reserved(admission, BOB)
    admission.release(ann)
    assert (admission.free_slots, admission.claim(bob.token, 1.0)) == (0, bob)


class Admitting(RuleBasedStateMachine):
    """Calls come and go in any order, at any time; what must hold then is in the invariants."""

    reservations = Bundle("reservations")

    @initialize(slots=st.integers(1, 4))
    def begin(self, slots: int) -> None:
        self.slots = slots
        self.admission = Admission(slots)
        self.now = 0.0
        self.holders: dict[int, Reservation] = {}
        self.seen: list[Reservation] = []
        self.claimed: set[str] = set()

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=reservations, call_sid=st.sampled_from([ANN, BOB, EVE]))
    def ring(self, call_sid: CallSid) -> object:
        reservation = self.admission.reserve(call_sid, self.now)
        assert (reservation is None) == (len(self.holders) == self.slots)
        if reservation is None:
            return multiple()
        assert reservation.slot not in self.holders, "two calls hold one slot"
        assert all(reservation.epoch > earlier.epoch for earlier in self.seen)
        assert all(reservation.token != earlier.token for earlier in self.seen)
        self.holders[reservation.slot] = reservation
        self.seen.append(reservation)
        return reservation

    @rule(reservation=reservations)
    def present_token(self, reservation: Reservation) -> None:
        held = self.holders.get(reservation.slot) == reservation
        good = held and reservation.token not in self.claimed and self.now < reservation.expires_s
        assert self.admission.claim(reservation.token, self.now) == (reservation if good else None)
        if good:
            self.claimed.add(reservation.token)

    @rule(reservation=reservations)
    def give_back(self, reservation: Reservation) -> None:
        self.admission.release(reservation)
        if self.holders.get(reservation.slot) == reservation:
            del self.holders[reservation.slot]

    @invariant()
    def no_slot_is_lost(self) -> None:
        if hasattr(self, "admission"):
            assert self.admission.free_slots + len(self.holders) == self.slots


TestAdmitting = Admitting.TestCase
TestAdmitting.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
