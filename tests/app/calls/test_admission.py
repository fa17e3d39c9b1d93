from app.calls.admission import TTL_S, Admission, Reservation
from app.twilio.events import CallSid

ANN, BOB, EVE = CallSid("CAann"), CallSid("CAbob"), CallSid("CAeve")


def reserved(admission: Admission, call_sid: CallSid, token: str = "") -> Reservation:
    reservation = admission.reserve(call_sid, 1.0, token)
    assert reservation is not None
    return reservation


def test_the_lowest_free_slot_is_reserved_first_with_an_epoch_and_a_token_of_its_own() -> None:
    admission = Admission(2)
    ann, bob = reserved(admission, ANN), reserved(admission, BOB)
    assert (ann.slot, bob.slot, admission.free_slots, admission.reserve(EVE, 1.0)) == (0, 1, 0, None)
    assert (ann.expires_s, len(ann.token) >= 32, ann.token != bob.token) == (1.0 + TTL_S, True, True)
    admission.release(bob)
    admission.release(ann)
    eve = reserved(admission, EVE, "given")
    assert (eve.slot, eve.token, ann.epoch < bob.epoch < eve.epoch, admission.free_slots) == (0, "given", True, 1)
