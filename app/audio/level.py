"""How loud one side of a call is right now, for a meter on a page. Nothing is computed until somebody looks."""

import numpy as np

from app.audio import mulaw

WINDOW_S = 0.25
WINDOW_BYTES = int(WINDOW_S * mulaw.SAMPLE_RATE_HZ)
SILENT_DBFS = -60.0
"""The lowest level told."""
_POWER: "np.ndarray[tuple[int], np.dtype[np.float64]]" = (mulaw.decode(bytes(range(256))) / 32_768.0) ** 2


class LevelMeter:
    """Keeps the last quarter of a second; `now` in seconds, monotonic."""

    def __init__(self) -> None:
        self._recent = bytearray()
        self._heard_s = 0.0

    def note(self, payload: bytes, now: float) -> None:
        """Take a packet of mu-law at 8 kHz."""
        self._recent += payload
        del self._recent[:-WINDOW_BYTES]
        self._heard_s = now

    def level_dbfs(self, now: float) -> float:
        """Return the level of the last quarter of a second; a line may send no packets in silence."""
        if not self._recent or now - self._heard_s > WINDOW_S:
            return SILENT_DBFS
        power = float(np.mean(_POWER[np.frombuffer(bytes(self._recent), np.uint8)]))
        return max(SILENT_DBFS, float(10 * np.log10(max(power, 1e-12))))
