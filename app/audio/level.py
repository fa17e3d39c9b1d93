"""Level and voice activity of one side of a call, for whoever displays them; nothing in a call depends on them.

The conversation has no voice-activity detection: Moshi listens to every frame, in silence and in noise, and decides
itself when to speak.

Theory of operation. Sound is what stands out of the line's own noise. The noise is the lowest level seen, a floor that
rises slowly, so that a noise that begins in mid-call is learned, and that every pause between two words brings down
again. Speech has started when sound has lasted for `START_S` without a break, which a click does not. It has stopped
when there has been none for `HANG_S`: a pause between two words is shorter. While Moshi brings forth text, its speech
has not stopped.
"""

from collections import deque

from app.audio import mulaw

LOUD_DBFS = -45.0
"""What is quieter is never speech."""
OVER_FLOOR_DB = 12.0
FLOOR_DBFS = (LOUD_DBFS - OVER_FLOOR_DB, -30.0)
FLOOR_RISE_DB_S = 2.0
START_S = 0.06
HANG_S = 0.4
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


class ActivityDetector:
    """One speaker; `now` in seconds, monotonic."""

    def __init__(self) -> None:
        self.speaking = False
        self._floor_dbfs = FLOOR_DBFS[0]
        self._sound_s = 0.0
        """How long there has been sound without a break."""
        self._last_s = 0.0
        """When there was sound last."""

    def add(self, payload: bytes, now: float) -> bool | None:
        """Add a packet of mu-law that ends now; return True if speech starts, False if it stops, None otherwise."""
        if not payload:
            return self.check(now)
        length_s = len(payload) / mulaw.SAMPLE_RATE_HZ
        level_dbfs = mulaw.power_dbfs(payload)
        loud = level_dbfs > max(LOUD_DBFS, self._floor_dbfs + OVER_FLOOR_DB)
        risen_dbfs = self._floor_dbfs + FLOOR_RISE_DB_S * length_s
        self._floor_dbfs = min(max(min(level_dbfs, risen_dbfs), FLOOR_DBFS[0]), FLOOR_DBFS[1])
        self._sound_s = self._sound_s + length_s if loud else 0.0
        if loud:
            self._last_s = now
        if not self.speaking and self._sound_s >= START_S:
            self.speaking = True
            return True
        return self.check(now)

    def add_text(self, now: float) -> None:
        """Count a piece of text: its speech has not stopped."""
        self._last_s = max(self._last_s, now)

    def check(self, now: float) -> bool | None:
        """Return False if speech has stopped by now, else None: a line may send no packets in silence."""
        if not self.speaking or now - self._last_s < HANG_S:
            return None
        self.speaking, self._sound_s = False, 0.0
        return False
