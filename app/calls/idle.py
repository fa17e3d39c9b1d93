"""How long nothing has been heard of a caller: a limit, and nothing else.

Moshi hears everything and decides himself when to speak; what counts as a sound here takes no part in that. It only
tells a line that somebody is on from one that was left lying. A packet is quiet when no sample of it is louder than
`QUIET`, which is under a voice and over the noise of an idle line; packets that do not come are quiet too.
"""

import numpy as np

from app.audio import mulaw

QUIET = 256
"""Of 32,768: 42 dB below full scale."""
_LOUDNESS = np.abs(mulaw.decode(bytes(range(256))).astype(np.int32))
_QUIET_BYTES = bytes(np.flatnonzero(_LOUDNESS <= QUIET).astype(np.uint8))


class IdleLimit:
    """Tell when a caller has been quiet for `limit_s` seconds from `now` on; 0 is never."""

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s
        self._heard_s = now

    def hear(self, payload: bytes, now: float) -> None:
        """Take one packet, mu-law."""
        if self._limit_s and payload.translate(None, _QUIET_BYTES):
            self._heard_s = now

    def notice(self, now: float) -> None:
        """Take another sign of life, such as a key pressed."""
        self._heard_s = now

    @property
    def due_s(self) -> float | None:
        """When the caller has been quiet for too long; None for never."""
        return self._heard_s + self._limit_s if self._limit_s else None
