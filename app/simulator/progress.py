"""What a simulated call reports while it runs."""

from collections.abc import Callable
from dataclasses import dataclass

PULSE_S = 0.25


@dataclass(frozen=True, slots=True)
class Waiting:
    """The caller waits in the queue."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The server has accepted the socket."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """Four times a second: time of the call, playout buffer, and the levels of the last quarter in dBFS."""

    at_s: float
    buffered_s: float
    said_dbfs: float
    heard_dbfs: float


Progress = Waiting | StreamOpened | Pulse
OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    pass
