"""How loud one side of a call is right now, for a meter on a page. Nothing is computed until a level is read."""

from collections import deque

from app.audio import mulaw

WINDOW_S = 0.25
WINDOW_BYTES = int(WINDOW_S * mulaw.SAMPLE_RATE_HZ)
SILENT_DBFS = -60.0
"""The lowest level."""


class LevelMeter:
    """Keeps the last quarter of a second; `now` in seconds, monotonic."""

    def __init__(self) -> None:
        self._packets: deque[bytes] = deque(maxlen=-(-WINDOW_BYTES // mulaw.PACKET_SAMPLES))
        self._added_s = 0.0

    def add(self, payload: bytes, now: float) -> None:
        """Add a packet of mu-law at 8 kHz."""
        self._packets.append(payload)
        self._added_s = now

    def level_dbfs(self, now: float) -> float:
        """Return the level of the last quarter of a second; a line may send no packets in silence."""
        recent = b"".join(self._packets)[-WINDOW_BYTES:]
        if not recent or now - self._added_s > WINDOW_S:
            return SILENT_DBFS
        return max(SILENT_DBFS, mulaw.power_dbfs(recent))
