"""What a simulated call tells while it runs: one frozen dataclass for each thing that happens."""

from collections.abc import Callable
from dataclasses import dataclass

from app.simulator.report import Outcome

PULSE_S = 0.25


@dataclass(frozen=True, slots=True)
class Ringing:
    """The webhook is being asked."""

    call_sid: str
    url: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The caller has been put in line."""

    call_sid: str


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The server has accepted the socket."""

    stream_sid: str
    url: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Pulse:
    """Four times a second of the call: levels are of the last quarter, in dB below full scale."""

    at_s: float
    buffered_s: float
    underruns: int
    said_dbfs: float
    heard_dbfs: float


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The server has closed the socket, or the caller has hung up (1000, "")."""

    stream_sid: str
    at_s: float
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is over."""

    at_s: float
    outcome: Outcome
    sentence: str


Progress = Ringing | Waiting | StreamOpened | Pulse | StreamClosed | CallEnded
OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Tell nobody."""
