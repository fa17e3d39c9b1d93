"""Slots: reserved when the phone rings, claimed once by the media socket's token, released when the call ends.

The lowest free slot is reserved first, because an engine step costs as much as the highest one in use. `now` is in
seconds, monotonic.
"""

import heapq
import secrets
from dataclasses import dataclass

from app.twilio.events import CallSid
from workers.messages import Epoch, Slot

TTL_S = 20.0
"""How long Twilio may take from our TwiML to its socket; one or two seconds are usual."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """`token` is the secret last part of the socket's path, good for one use until `expires_s`."""

    slot: Slot
    epoch: Epoch
    call_sid: CallSid
    token: str
    expires_s: float


def new_token() -> str:
    return secrets.token_urlsafe(24)


class Admission:
    """The slots of this machine that are free."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = [Slot(slot) for slot in range(slots)]  # a heap
        self._epoch = 0

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def reserve(self, call_sid: CallSid, now: float, token: str = "") -> Reservation | None:
        """Reserve a slot, None when all are taken; `token` may have been given out already."""
        if not self._free:
            return None
        self._epoch += 1
        slot, token = heapq.heappop(self._free), token or new_token()
        return Reservation(slot, Epoch(self._epoch), call_sid, token, now + TTL_S)

    def release(self, reservation: Reservation) -> None:
        """Free the slot, once."""
        heapq.heappush(self._free, reservation.slot)
