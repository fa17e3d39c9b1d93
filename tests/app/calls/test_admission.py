from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from app.calls.admission import Admission, Reservation
from app.twilio.events import CallSid

ANN, BOB, EVE = CallSid("CAann"), CallSid("CAbob"), CallSid("CAeve")


def reserved(admission: Admission, call_sid: CallSid, now: float = 0.0) -> Reservation:
    reservation = admission.reserve(call_sid, now)
    assert reservation is not None
    return reservation


def test_a_call_rings_gets_a_slot_uses_its_token_and_gives_the_slot_back() -> None:
    admission = Admission(1)
    ann = reserved(admission, ANN)
    assert admission.claim(ann.token, 1.0) == ann
    assert admission.free_slots == 0
    admission.release(ann)
    assert admission.free_slots == 1


def test_all_slots_taken_means_none() -> None:
    admission = Admission(2)
    taken = {reserved(admission, ANN).slot, reserved(admission, BOB).slot}
    assert taken == {0, 1}
    assert admission.reserve(EVE, 0.0) is None


def test_a_token_is_good_once_and_only_if_it_is_known() -> None:
    admission = Admission(1)
    ann = reserved(admission, ANN)
    assert admission.claim("guess", 1.0) is None
    assert admission.claim("", 1.0) is None
    assert admission.claim(ann.token, 1.0) == ann
    assert admission.claim(ann.token, 1.0) is None


def test_a_token_is_good_until_it_expires() -> None:
    admission = Admission(2, ttl_s=20.0)
    ann, bob = reserved(admission, ANN), reserved(admission, BOB)
    assert admission.claim(ann.token, 19.9) == ann
    assert admission.claim(bob.token, 20.0) is None


def test_the_token_of_a_released_slot_is_worthless() -> None:
    admission = Admission(1)
    ann = reserved(admission, ANN)
    admission.release(ann)
    assert admission.claim(ann.token, 1.0) is None


def test_a_slot_given_back_twice_is_still_one_slot() -> None:
    admission = Admission(1)
    ann = reserved(admission, ANN)
    admission.release(ann)
    admission.release(ann)
    assert admission.free_slots == 1


def test_a_slot_given_back_late_is_not_taken_from_the_next_call() -> None:
    admission = Admission(1)
    ann = reserved(admission, ANN)
    admission.release(ann)
    bob = reserved(admission, BOB)
    admission.release(ann)
    assert (admission.free_slots, admission.claim(bob.token, 1.0)) == (0, bob)


class Admitting(RuleBasedStateMachine):
    """Calls come and go in any order, at any time; what must hold then is in the invariants."""

    reservations = Bundle("reservations")

    @initialize(slots=st.integers(1, 4), ttl_s=st.floats(0.5, 30))
    def begin(self, slots: int, ttl_s: float) -> None:
        self.slots, self.ttl_s = slots, ttl_s
        self.admission = Admission(slots, ttl_s)
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
TestAdmitting.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
