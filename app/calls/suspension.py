"""Whether a call has a pipeline, waits for one, or is being resumed in one. Time is an argument."""

import math
from dataclasses import dataclass

from app.calls.leg import SendFrame
from app.calls.record import Gap
from app.calls.unread import UnreadFrames


@dataclass(frozen=True, slots=True)
class OpenCall:
    """Open the call in the pipeline, with so many frames of greeting."""

    greeting_frames: int


@dataclass(frozen=True, slots=True)
class ResumeCall:
    """Have the pipeline go on with the conversation within `budget_s`; `gap` follows it, the first is `seq`."""

    seq: int
    gap: tuple[SendFrame, ...]
    budget_s: float


@dataclass(frozen=True, slots=True)
class Suspended:
    """Moshi does not hear the caller from now on; `anew`: the call, which was not live, will be opened anew."""

    reason: str
    anew: bool


@dataclass(frozen=True, slots=True)
class GapOver:
    """Moshi hears the caller again."""

    gap: Gap


class Suspension:
    """Of one stream; if it `goes_on`, the next pipeline goes on with the conversation, else it opens the call anew."""

    def __init__(self, first_seq: int, goes_on: bool) -> None:
        self.unread = UnreadFrames(first_seq)
        self.goes_on = goes_on
        self.since_s: float | None = None
        """Since when the call waits; None while it does not."""
        self.until_s = math.inf
        """When it has waited for too long."""
        self.loss = ""
        self._is_open = False

    def begin(self, reason: str, now: float, within_s: float, is_live: bool) -> None:
        """The pipeline is lost; a call that waits already keeps its time."""
        self.goes_on |= is_live and self._is_open
        self._is_open, self.loss = False, reason
        self._hold(now, within_s)

    def attach(self, now: float, within_s: float, budget_s: float, greeting_frames: int) -> OpenCall | ResumeCall:
        """A pipeline is ready."""
        self._is_open = True
        if not self.goes_on:
            self.end()
            self.unread.discard()
            return OpenCall(greeting_frames)
        self._hold(now, within_s)
        gap = self.unread.gap()
        return ResumeCall(self.unread.next_seq - len(gap), tuple(gap), budget_s)

    def end(self) -> None:
        """The call waits no more."""
        self.since_s, self.until_s = None, math.inf

    def _hold(self, now: float, within_s: float) -> None:
        self.unread.hold()
        if self.since_s is None:
            self.since_s, self.until_s = now, now + within_s
