"""The limits of a call, how long its caller may be silent, and when they take over from the greeting."""

import math
from dataclasses import dataclass

import numpy as np

from app.audio import mulaw
from app.audio.playout_buffer import FIRST_JITTER_S
from workers.messages import FRAME_S

TAKEOVER_MARGIN_S = 0.01
"""What Twilio's buffer should still hold when the first answer to the caller arrives."""
SILENT_STEPS = 1
"""Steps of a greeting that yield no sound: Moshi's acoustic delay."""
QUIET = 256
"""Of 32,768: 42 dB below full scale, below a voice and above the noise of an idle line."""
_LOUDNESS = np.abs(mulaw.decode(bytes(range(256))).astype(np.int32))
_QUIET_BYTES = bytes(np.flatnonzero(_LOUDNESS <= QUIET).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Frames of greeting, and limits in seconds: until the socket opens, of a whole call, of the caller's silence.

    `processing_s` is what the workers take for a frame, `jitter_s` by how much that varies. `idle_s` 0 is no limit. The
    key `hangup_digit` ends the call, `transfer_digit` has it transferred; "" for none.
    """

    greeting_frames: int
    socket_within_s: float
    max_call_s: float
    processing_s: float
    jitter_s: float = FIRST_JITTER_S
    idle_s: float = 0.0
    hangup_digit: str = ""
    transfer_digit: str = ""

    @property
    def takeover_s(self) -> float:
        """When on the caller's clock the first frame begins that Moshi listens to.

        The greeting's sound lasts `played_s`; the answer to a frame comes 80 ms and the processing after its beginning
        and should find `TAKEOVER_MARGIN_S` of the greeting still unplayed.
        """
        played_s = max(0, self.greeting_frames - SILENT_STEPS) * FRAME_S
        return max(0.0, played_s - FRAME_S - self.processing_s - self.jitter_s - TAKEOVER_MARGIN_S)


class IdleLimit:
    """`due_s` is when a caller has been quiet for `limit_s` seconds, infinity if that is 0.

    A packet is quiet when no sample of it is louder than `QUIET`; packets that do not come are quiet too.
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s or math.inf
        self.due_s = now + self._limit_s

    def add(self, payload: bytes, now: float) -> None:
        """Count one packet, mu-law."""
        if self._limit_s < math.inf and payload.translate(None, _QUIET_BYTES):
            self.reset(now)

    def reset(self, now: float) -> None:
        """Count another sign of life, such as a key pressed."""
        self.due_s = now + self._limit_s
