"""The conversations of calls whose stream is over and which may come back: after keys, a transfer, a lost stream.

A token log decodes to both voices: it is forgotten when the phone call is over, after `KEPT_S`, or for newer ones.
"""

from app.calls.admission import VoiceRequest
from app.calls.conversation import Conversation
from app.twilio.events import CallSid

KEPT = 16
"""How many are kept; each is about 4 MB, most of it the sound of the last 80 s."""
KEPT_S = 900.0

Memory = tuple[Conversation, VoiceRequest]


class Memories:
    """By CallSid; `now` in seconds, monotonic."""

    def __init__(self) -> None:
        self._kept: dict[CallSid, tuple[float, Memory]] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, call_sid: CallSid, memory: Memory, now: float) -> None:
        self.take(call_sid, now)
        self._kept[call_sid] = now + KEPT_S, memory
        for oldest in [*self._kept][:-KEPT]:
            del self._kept[oldest]

    def take(self, call_sid: CallSid, now: float) -> Memory | None:
        """Return the conversation of a call that comes back, and what it asked for; None if there is none."""
        self.expire(now)
        _, memory = self._kept.pop(call_sid, (0.0, None))
        return memory

    def find(self, call_sid: CallSid, now: float) -> VoiceRequest | None:
        """Return what a call asked for whose conversation is kept, else None."""
        self.expire(now)
        _, memory = self._kept.get(call_sid, (0.0, None))
        return memory and memory[1]

    def expire(self, now: float) -> None:
        """Forget those whose time is over."""
        for call_sid in [call_sid for call_sid, (until_s, _) in self._kept.items() if now >= until_s]:
            del self._kept[call_sid]
