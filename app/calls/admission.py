"""Slots, and what a call asks for: reserved when the phone rings, claimed by the media socket's token, then released.

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
class VoiceRequest:
    """What a voice webhook says of a call, and asks for.

    `greeting_frames` may shorten the greeting of the settings: the workers hold no more silence ready. `record` asks
    for a recording, `persona` for that one, "" for the one of the number called, `prompt` for the one-time prompt with
    this id. `webhook_token` is the webhook's I-Twilio-Idempotency-Token. A `chat` brings its own `sampling` and `seed`,
    which go before those of the persona and of the settings; its audio is PCM or `opus`.
    """

    greeting_frames: int | None = None
    caller: str = ""
    called: str = ""
    direction: str = ""
    persona: str = ""
    record: bool = False
    webhook_token: str = ""
    prompt: str = ""
    chat: bool = False
    opus: bool = False
    sampling: tuple[tuple[str, float], ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """`token` is the secret last part of the socket's path, good for one use until `expires_s`."""

    slot: Slot
    epoch: Epoch
    call_sid: CallSid
    token: str
    expires_s: float


@dataclass(frozen=True, slots=True)
class Standby:
    """The token of a stream that Twilio may open in place of the one that is on; it holds no slot of its own."""

    token: str
    expires_s: float
    request: VoiceRequest


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
        heapq.heappush(self._free, reservation.slot)
