"""The conversations of calls whose stream is over and which may come back: after keys, a transfer, a lost stream.

A token log decodes to both voices: it is forgotten when the phone call is over, after `KEPT_S`, or for newer ones.
"""

import asyncio
from collections.abc import Callable

from app.calls.admission import VoiceRequest
from app.calls.conversation import Conversation
from app.twilio.events import CallSid

KEPT = 16
"""How many are kept, or as many as there are slots; each is about 4 MB, most of it the sound of the last 80 s."""
KEPT_S = 900.0

Memory = tuple[Conversation, VoiceRequest]


class ConversationStore:
    """By CallSid; `clock` returns seconds, monotonic. On the event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._most = KEPT
        self._kept: dict[CallSid, tuple[float, Memory]] = {}  # the oldest first
        self._is_timed = False
        """Whether `_on_timer` is due."""

    def set_slots(self, slots: int) -> None:
        """Keep one of each slot at least: all streams may be lost at once."""
        self._most = max(KEPT, slots)

    def keep(self, call_sid: CallSid, memory: Memory) -> None:
        self.pop(call_sid)
        self._kept[call_sid] = self._clock() + KEPT_S, memory
        for oldest in [*self._kept][: -self._most]:
            del self._kept[oldest]
        self._set_timer()

    def pop(self, call_sid: CallSid) -> Memory | None:
        """Return the conversation of a call that comes back, and what it asked for; None if there is none."""
        self._expire()
        _, memory = self._kept.pop(call_sid, (0.0, None))
        return memory

    def find(self, call_sid: CallSid) -> VoiceRequest | None:
        """Return what a call asked for whose conversation is kept, else None."""
        self._expire()
        _, memory = self._kept.get(call_sid, (0.0, None))
        return memory and memory[1]

    def _expire(self) -> None:
        now = self._clock()
        for call_sid in [call_sid for call_sid, (until_s, _) in self._kept.items() if now >= until_s]:
            del self._kept[call_sid]

    def _set_timer(self) -> None:
        """Look again while there are any."""
        if self._kept and not self._is_timed:
            self._is_timed = True
            asyncio.get_running_loop().call_later(KEPT_S / 10, self._on_timer)

    def _on_timer(self) -> None:
        self._is_timed = False
        self._expire()
        self._set_timer()
