"""The record of a call: who ended it and why, the words of both sides, how long each stage took."""

from collections import Counter, deque
from copy import copy
from dataclasses import dataclass, field, replace

from app.calls.end_reason import EndReason
from app.calls.stage_times import StageTimes
from app.calls.transcript import Side, Word
from app.calls.transfer import Transfer
from app.twilio.errors import explain
from app.twilio.events import CallSid
from app.twilio.status import Status, StreamStatusCallback
from workers.messages import FRAME_S, Frame

SPANS_KEPT = 4_000
"""Frames of which the stage times are kept: the last five minutes."""
KEYS_KEPT = 100


@dataclass
class Recording:
    """`name` of the files, "" for none; `fault` is why it was broken off, or not made.

    The thread that writes it may set a fault at any time.
    """

    name: str = ""
    fault: str = ""

    def __str__(self) -> str:
        kept = f"kept in {self.name}" if self.name else "no recording"
        return f"{kept}; broken off: {self.fault}" if self.name and self.fault else self.fault or kept


@dataclass
class Gap:
    """A time in which Moshi did not hear the caller of a call that was on; `began_s` on the monotonic clock.

    `seconds` is how long it lasted, None if the call ended in it. Moshi went on knowing the last `steps` of the call;
    `left_out` earlier ones are forgotten.
    """

    reason: str
    began_s: float
    seconds: float | None = None
    steps: int = 0
    left_out: int = 0


@dataclass
class StreamRecord:
    """One media stream of a call, from its reservation to its end; times in seconds of the monotonic clock."""

    number: int
    """From 1."""
    reserved_s: float
    connected_s: float | None = None
    started_s: float | None = None
    ended_s: float | None = None
    end: EndReason | None = None
    detail: str = ""
    recording: Recording = field(default_factory=Recording)
    stream_sid: str = ""
    """Twilio's name for it, known from its start on."""
    webhook_token: str = ""
    """The I-Twilio-Idempotency-Token of the webhook that opened it; "" if there was none."""


@dataclass
class CallRecord:
    """One call, whose media may come in several streams; times in seconds of the monotonic clock, `counts` by name.

    Twilio asks for a stream anew when the call comes back: after keys were played, a transfer, a lost stream. Words,
    counts and times are those of all streams together. `connected_s`, `started_s` and `first_sound_s` are those of
    the first stream that came so far. `ended_s`, `end` and `detail` are those of the last stream whose socket came;
    they are None again while a further one is connected.
    """

    call_sid: CallSid
    reserved_s: float
    greeting_frames: int = 0
    takeover_s: float = 0.0
    """When on the caller's clock the first frame begins that Moshi listens to."""
    caller: str = field(default="", repr=False)
    called: str = field(default="", repr=False)
    elsewhere_s: float = 0.0
    """How long the call had been on at other nodes when it came."""
    direction: str = ""
    """As Twilio says it: inbound, outbound-api, outbound-dial; "" if it does not."""
    persona: str = ""
    """Who speaks, "" for Moshi as its weights are."""
    connected_s: float | None = None
    started_s: float | None = None
    first_sound_s: float | None = None
    greeting_said_s: float | None = None
    """When Moshi had said the words of its persona's greeting; None if it has none."""
    ended_s: float | None = None
    end: EndReason | None = None
    detail: str = ""
    status: str = ""
    """How far the phone call has come, as Twilio says; the same goes for the three below."""
    duration_s: int | None = None
    stream_error: str = ""
    error_code: int | None = None
    words: list[Word] = field(default_factory=list)
    """What both sides said, masked, in the order in which it became known; times since `reserved_s`."""
    counts: Counter[str] = field(default_factory=Counter)
    keys_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEYS_KEPT))
    """When the caller pressed keys, the last ones."""
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=SPANS_KEPT))
    """Mouth to ear, estimated for each piece of audio that answers the caller: from what they say to what they hear."""
    spans: StageTimes = field(default_factory=lambda: StageTimes(SPANS_KEPT))
    streams: list[StreamRecord] = field(default_factory=list)
    moves: list[tuple[float, str]] = field(default_factory=list)
    """When the call went on at another Moshi server, which remembers nothing of it, and why."""
    gaps: list[Gap] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    sentences: int = 0
    """How many Moshi was told to say: the number of the last one."""
    webhook_events: int = 0
    """How many were made for WEBHOOK_URL."""
    refused: str = ""
    """Why the call, which had been answered, was last hung up on for want of a slot."""
    over: bool = False
    """Whether Twilio has said that the phone call is over."""
    _status_sequence: int = -1

    @property
    def recording(self) -> Recording:
        """The last recording of the call, or what is known of why there is none."""
        known = [stream.recording for stream in reversed(self.streams)]
        best = [one for one in known if one.name] + [one for one in known if one.fault]
        return best[0] if best else Recording()

    @property
    def is_transferred(self) -> bool:
        """Whether the call is with a person, as far as is known."""
        return bool(self.transfers) and self.transfers[-1].ended_s is None and not self.over

    def has_started(self, stream_sid: str) -> bool:
        return bool(stream_sid) and any(stream.stream_sid == stream_sid for stream in self.streams)

    def open_stream(self, now: float, webhook_token: str = "") -> StreamRecord:
        """Add a stream, for which a slot is reserved now."""
        self.streams.append(StreamRecord(len(self.streams) + 1, now, webhook_token=webhook_token))
        return self.streams[-1]

    def on_connected(self, stream: StreamRecord, now: float) -> None:
        """The socket of a stream is open: the call is on, even if an earlier stream of it has ended."""
        stream.connected_s = now
        self.connected_s = now if self.connected_s is None else self.connected_s
        self.ended_s = self.end = None
        self.detail = self.refused = ""

    def on_started(self, stream: StreamRecord, stream_sid: str, now: float) -> None:
        stream.started_s, stream.stream_sid = now, stream_sid
        self.started_s = now if self.started_s is None else self.started_s

    def on_end(self, stream: StreamRecord, reason: EndReason, detail: str, now: float) -> None:
        """A stream has ended. One whose socket never came changes nothing in a call that had ended before."""
        stream.ended_s, stream.end, stream.detail = now, reason, detail
        if self.end is None or stream.connected_s is not None:
            self.ended_s, self.end, self.detail = now, reason, detail

    def correct_end(self, stream: StreamRecord, reason: EndReason) -> None:
        """Correct the reason for which a stream has ended, and the call's if that was its last one."""
        if (self.end, self.ended_s) == (stream.end, stream.ended_s):
            self.end = reason
        stream.end = reason

    def is_repeat(self, webhook_token: str, is_ringing: bool) -> bool:
        """Tell whether Twilio has acted on the answer to this voice webhook already, so that it is sent once more.

        `is_ringing` is what the webhook says of the phone call: one that had a socket rings no more.
        """
        connected = [stream.webhook_token for stream in self.streams if stream.connected_s is not None]
        return (webhook_token != "" and webhook_token in connected) or (is_ringing and bool(connected))

    def set_parties(self, caller: str, called: str, direction: str) -> None:
        """Set who calls whom, unless that is known."""
        if not self.caller:
            self.caller, self.called, self.direction = caller, called, direction

    def on_frame(self, frame: Frame, now: float) -> None:
        self.counts["frames_out"] += frame.pcm is not None
        self.counts["frames_dropped"] += frame.dropped
        self.counts["overruns"] += any(span.ended_s - span.started_s > FRAME_S for span in frame.spans)
        self.spans.append(frame.spans)

    def on_moved(self, reason: str, now: float) -> None:
        self.counts["moves"] += 1
        self.moves.append((now, reason))

    def on_sentence_said(self, whole: bool) -> None:
        self.counts["sentences_said"] += whole
        self.counts["sentences_cut"] += not whole

    def copy(self) -> "CallRecord":
        """Return the record as it is now, for another thread to read while the call goes on."""
        names = ("words", "moves", "counts", "keys_s", "latencies_s", "spans")
        copies = {name: copy(getattr(self, name)) for name in names}
        gaps = [replace(gap) for gap in self.gaps]
        streams, transfers = [replace(one) for one in self.streams], [replace(one) for one in self.transfers]
        return replace(self, **copies, streams=streams, transfers=transfers, gaps=gaps)

    def on_gap(self, reason: str, now: float) -> None:
        """Moshi does not hear the caller from now on, unless that was so before."""
        if not self.gap:
            self.gaps.append(Gap(reason, now))

    def on_resumed(self, steps: int, left_out: int, now: float) -> Gap | None:
        """The gap is over; return it, None if there was none."""
        if gap := self.gap:
            gap.seconds, gap.steps, gap.left_out = round(now - gap.began_s, 4), steps, left_out
            self.counts["resumed"] += 1
        return gap

    @property
    def gap(self) -> Gap | None:
        """The gap that lasts, None without one."""
        return self.gaps[-1] if self.gaps and self.gaps[-1].seconds is None else None

    def on_key(self, now: float) -> None:
        """Count a key that the caller has pressed, but not which: it may be part of a PIN."""
        self.counts["dtmf"] += 1
        self.keys_s.append(now)

    def on_status(self, status: Status) -> None:
        """Set what Twilio says of the call or its stream; an error stays once it is known.

        Callbacks may arrive out of order: `SequenceNumber` orders them, and what follows the end of the call is late.
        """
        self.error_code = status.error_code or self.error_code
        if isinstance(status, StreamStatusCallback):
            self.stream_error = status.error or self.stream_error
            return
        self.duration_s = status.duration_s or self.duration_s
        sequence = self._status_sequence if status.sequence is None else status.sequence
        if not self.over and (sequence >= self._status_sequence or status.over):
            self.status, self.over, self._status_sequence = status.status, status.over, sequence

    @property
    def transcript(self) -> str:
        """What Moshi said."""
        return " ".join(word.text for word in self.words if word.speaker is Side.MOSHI)

    @property
    def advice(self) -> str:
        """What to do about Twilio's error, "" for none."""
        return explain(self.error_code) if self.error_code else ""
