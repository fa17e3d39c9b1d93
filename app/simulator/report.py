"""What a simulated call was like, in figures, as JSON and as a stereo WAV."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from app.audio import mulaw
from app.simulator.playout import BufferLevel, PlayoutModel, ReturnedMark, Underrun
from app.simulator.stream import StreamCounts
from app.simulator.wav import Samples, write_stereo
from app.twilio.events import RATE_HZ

AUDIBLE = 64
"""A sample louder than this (-54 dB below full scale) is a sound."""


class Outcome(StrEnum):
    """How a call ended."""

    CALLER_HUNG_UP = "caller-hung-up"
    SERVER_HUNG_UP = "server-hung-up"
    ENDED_REMOTELY = "ended-remotely"
    LINE_CUT = "line-cut"
    REJECTED = "rejected"
    WEBHOOK_FAILED = "webhook-failed"
    BAD_TWIML = "bad-twiml"
    HANDSHAKE_FAILED = "handshake-failed"
    PROTOCOL_VIOLATION = "protocol-violation"
    TOO_MANY_STREAMS = "too-many-streams"
    STATUS_FAILED = "status-failed"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended, with the HTTP status that ended it, if one did."""

    outcome: Outcome
    sentence: str
    status: int | None = None


@dataclass(frozen=True, slots=True)
class StreamReport:
    """One stream of the call; the close code is the server's, 1006 when the connection broke."""

    url: str
    stream_sid: str
    opened_s: float
    closed_s: float
    counts: StreamCounts
    close_code: int = 1000
    close_reason: str = ""


@dataclass(frozen=True, slots=True)
class CallReport:
    """One call; times are seconds since its first stream started, at `zero_s` of the monotonic clock.

    `said` and `heard` are int16 at 8 kHz on one clock and equally long: what the caller spoke, after mu-law, and what
    they heard. `status` is the HTTP status that ended the call, where one did. `discarded_s` is what did not fit into
    Twilio's buffer.
    """

    call_sid: str
    outcome: Outcome
    sentence: str
    status: int | None
    ended_s: float
    said: Samples = field(repr=False)
    heard: Samples = field(repr=False)
    streams: tuple[StreamReport, ...] = ()
    underruns: tuple[Underrun, ...] = ()
    buffer_levels: tuple[BufferLevel, ...] = field(default=(), repr=False)
    marks: tuple[ReturnedMark, ...] = field(default=(), repr=False)
    discarded_s: float = 0.0
    zero_s: float = 0.0

    @property
    def first_packet_s(self) -> float | None:
        """When the server's first audio arrived, silent or not."""
        return self.buffer_levels[0].at_s if self.buffer_levels else None

    @property
    def first_sound_s(self) -> float | None:
        audible = np.abs(self.heard.astype(np.int32)) > AUDIBLE
        return float(np.argmax(audible)) / RATE_HZ if audible.any() else None

    @property
    def underrun_s(self) -> float:
        return sum(underrun.length_s for underrun in self.underruns)

    def buffered_percentile_ms(self, percent: float) -> float | None:
        return percentile_ms([level.buffered_s for level in self.buffer_levels], percent)

    @property
    def lateness_s(self) -> list[float]:
        """How late this simulator itself sent each packet."""
        return [late_s for stream in self.streams for late_s in stream.counts.lateness_s]

    def figures(self) -> dict[str, Any]:
        """Return all figures for JSON, without the audio and the long list of each stream's times."""
        streams = [asdict(stream) for stream in self.streams]
        for stream in streams:
            del stream["counts"]["lateness_s"], stream["counts"]["sent_s"]
        return {
            **{name: getattr(self, name) for name in ("call_sid", "outcome", "sentence", "status", "ended_s")},
            "first_packet_s": self.first_packet_s,
            "first_sound_s": self.first_sound_s,
            "underrun_s": self.underrun_s,
            "discarded_s": self.discarded_s,
            "buffered_ms": {f"p{percent}": self.buffered_percentile_ms(percent) for percent in (0, 50, 99, 100)},
            "lateness_ms": {f"p{percent}": percentile_ms(self.lateness_s, percent) for percent in (50, 99, 100)},
            "underruns": [asdict(underrun) for underrun in self.underruns],
            "streams": streams,
            "marks": [asdict(mark) for mark in self.marks],
            "buffer_levels": [[level.at_s, level.buffered_s * 1000] for level in self.buffer_levels],
        }

    def save_wav(self, path: Path) -> None:
        write_stereo(path, self.said, self.heard)


def call_report(
    call_sid: str,
    ending: Ending,
    ended_s: float,
    said: bytes,
    playout: PlayoutModel,
    streams: Sequence[StreamReport],
    zero_s: float = 0.0,
) -> CallReport:
    """Return the report of a call that has ended, in which this mu-law was said."""
    heard = mulaw.decode(playout.heard(ended_s))
    spoken = mulaw.decode(said)[: len(heard)]
    return CallReport(
        call_sid=call_sid,
        outcome=ending.outcome,
        sentence=ending.sentence,
        status=ending.status,
        ended_s=ended_s,
        said=np.pad(spoken, (0, len(heard) - len(spoken))),
        heard=heard,
        streams=tuple(streams),
        underruns=tuple(playout.underruns),
        buffer_levels=tuple(playout.buffer_levels),
        marks=tuple(playout.returned),
        discarded_s=playout.discarded_samples / RATE_HZ,
        zero_s=zero_s,
    )


def percentile_ms(seconds: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(seconds, percent)) * 1000 if seconds else None
