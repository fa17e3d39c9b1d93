"""Who speaks, told from levels: news for whoever looks on, nothing that a call depends on.

The conversation itself has no voice-activity detection: Moshi hears every frame, in silence and in noise, and decides
for himself when to speak. What is found here is never told to him, nor to the play-out.

Theory of operation. Sound is what stands out of the line's own noise. The noise is the least level heard, a floor that
creeps up so that a noise that begins in mid-call is learned, and that every pause between two words takes down again.
Speech has begun when sound has lasted for `SURE_S` without a break, which a click does not. It has stopped when there
has been none for `HANG_S`: a pause between two words is shorter. Text that Moshi thinks meanwhile says that he has not
finished.
"""

import numpy as np

from app.audio import mulaw

LOUD_DBFS = -45.0
"""What is quieter is never speech."""
OVER_FLOOR_DB = 12.0
FLOOR_DBFS = (LOUD_DBFS - OVER_FLOOR_DB, -30.0)
CREEP_DB_S = 2.0
SURE_S = 0.06
HANG_S = 0.4
_POWER: "np.ndarray[tuple[int], np.dtype[np.float64]]" = (mulaw.decode(bytes(range(256))) / 32_768.0) ** 2
_LEAST_POWER = 1e-12


class ActivityDetector:
    """One speaker; `now` in seconds, monotonic."""

    def __init__(self) -> None:
        self.speaking = False
        self._floor_dbfs = FLOOR_DBFS[0]
        self._sound_s = 0.0
        """How long there has been sound without a break."""
        self._last_s = 0.0
        """When there was sound last."""

    def hear(self, payload: bytes, now: float) -> bool | None:
        """Take a packet of mu-law that ends now; return True if speech begins, False if it stops, None otherwise."""
        if not payload:
            return self.look(now)
        length_s = len(payload) / mulaw.SAMPLE_RATE_HZ
        level_dbfs = _level_dbfs(payload)
        loud = level_dbfs > max(LOUD_DBFS, self._floor_dbfs + OVER_FLOOR_DB)
        crept_dbfs = self._floor_dbfs + CREEP_DB_S * length_s
        self._floor_dbfs = min(max(min(level_dbfs, crept_dbfs), FLOOR_DBFS[0]), FLOOR_DBFS[1])
        self._sound_s = self._sound_s + length_s if loud else 0.0
        if loud:
            self._last_s = now
        if not self.speaking and self._sound_s >= SURE_S:
            self.speaking = True
            return True
        return self.look(now)

    def think(self, now: float) -> None:
        """A piece of text has come: who speaks has not finished."""
        self._last_s = max(self._last_s, now)

    def look(self, now: float) -> bool | None:
        """Return False if speech has stopped by now, else None: a line may send no packets in silence."""
        if not self.speaking or now - self._last_s < HANG_S:
            return None
        self.speaking, self._sound_s = False, 0.0
        return False


def _level_dbfs(payload: bytes) -> float:
    power = float(np.mean(_POWER[np.frombuffer(payload, np.uint8)]))
    return float(10 * np.log10(max(power, _LEAST_POWER)))
