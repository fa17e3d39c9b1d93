"""What is kept of a call: who ended it and why, what was said, how long each stage took."""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum

from app.twilio.events import CallSid
from workers.messages import FRAME_S, Frame, Span

SPANS_KEPT = 4_000
"""Frames of which the stage times are kept: the last five minutes."""


class EndReason(StrEnum):
    """Why a call ended."""

    CALLER_HUNG_UP = "caller hung up"
    SOCKET_LOST = "the socket was lost"
    SOCKET_BLOCKED = "the socket took no more audio"
    PROTOCOL = "the peer broke the protocol"
    NO_START = "no start message in time"
    NO_SOCKET = "no socket in time"
    WRONG_CALL = "the stream belongs to another call"
    TIME_LIMIT = "time limit"
    WORKER_LOST = "a worker was lost"
    STAGE_FAILED = "a stage could not go on"
    SHUTDOWN = "the service is stopping"


@dataclass
class CallRecord:
    """One call; times in seconds of the monotonic clock, `counts` by name."""

    call_sid: CallSid
    reserved_s: float
    greeting_frames: int = 0
    takeover_s: float = 0.0
    """When on the caller's clock his first frame begins that Moshi hears."""
    caller: str = field(default="", repr=False)
    called: str = field(default="", repr=False)
    direction: str = ""
    """As Twilio says it: inbound, outbound-api, outbound-dial; "" if it does not."""
    connected_s: float | None = None
    started_s: float | None = None
    first_sound_s: float | None = None
    ended_s: float | None = None
    end: EndReason | None = None
    detail: str = ""
    text: list[tuple[float, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    spans: deque[tuple[Span, ...]] = field(default_factory=lambda: deque(maxlen=SPANS_KEPT))

    def note_frame(self, frame: Frame, now: float) -> None:
        """Take down what came with one of Moshi's frames."""
        self.counts["frames_out"] += frame.pcm is not None
        self.counts["frames_dropped"] += frame.dropped
        self.counts["overruns"] += any(span.ended_s - span.started_s > FRAME_S for span in frame.spans)
        self.spans.append(frame.spans)
        if frame.text:
            self.text.append((now, frame.text))

    @property
    def transcript(self) -> str:
        """What Moshi said, as text."""
        return "".join(piece for _, piece in self.text).strip()

    def summary(self) -> dict[str, object]:
        """Return what a list of calls shows."""
        fields = self._facts()
        return {name: fields[name] for name in ("call_sid", "started_s", "ended_s", "end", "detail", "counts")}

    def as_json(self) -> dict[str, object]:
        """Return the record for machines; times in seconds since the slot was reserved."""
        return {
            **self._facts(),
            "transcript": self.transcript,
            "text": [(self._relative(moment), piece) for moment, piece in self.text],
            "spans": [
                [(span.stage, self._relative(span.started_s), self._relative(span.ended_s)) for span in spans]
                for spans in self.spans
            ],
        }

    def _facts(self) -> dict[str, object]:
        return {
            "call_sid": self.call_sid,
            "greeting_frames": self.greeting_frames,
            "takeover_s": self.takeover_s,
            "connected_s": self._relative(self.connected_s),
            "started_s": self._relative(self.started_s),
            "first_sound_s": self._relative(self.first_sound_s),
            "ended_s": self._relative(self.ended_s),
            "end": self.end,
            "detail": self.detail,
            "counts": dict(self.counts),
        }

    def _relative(self, moment: float | None) -> float | None:
        return None if moment is None else round(moment - self.reserved_s, 4)
