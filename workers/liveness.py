"""Decides whether a stage of the pipeline hangs: no I/O, time is an argument (seconds, monotonic).

A worker is single-threaded: during a unit of work it answers no ping, so its silence alone proves nothing. While frames
are in the pipeline the sign of progress is that something comes out: every message that the app sends comes back, an
`Open` with a greeting as the greeting's last frame, and of several frames of one call the newest. While nothing is in
the pipeline no unit of work runs, so each worker must answer pings. Work that takes longer than a few steps (loading,
warm-up, prefill, replay) reports `Progress` by chunk, which counts as progress whichever stage sends it.

Whatever stopped the supervisor itself, a laptop that slept or an event loop that was blocked, stopped it from reading
answers too: when `hang` is called late, all counts start anew.
"""

from dataclasses import dataclass

from workers.histogram import Histogram
from workers.messages import (
    Close,
    Codes,
    Epoch,
    Failed,
    Frame,
    Message,
    Open,
    PipelineMessage,
    PromptMessage,
    Resume,
    Resumed,
    Said,
    Say,
    Slot,
    Stage,
)

CHECK_EVERY_S = 0.25
"""How often `hang` is to be called."""
PING_EVERY_S = 0.5
"""More than once in `busy_s`: a stage that stops has then answered fewer pings than the others."""
ANSWERING_SHARE = 0.6
"""The share of its limit after which a stage no longer counts as answering."""
_END = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """After how long without a sign of progress a stage is taken to hang, in seconds.

    `busy_s`, or `busy_steps` times the measured step if that is longer, while frames are in the pipeline; `idle_s`
    without an answer while none is; `start_s` while a worker starts, and before a step has been measured. A call of
    `hang` that comes more than `jump_s` after the last one starts all counts anew.
    """

    busy_s: float = 1.0
    busy_steps: float = 5.0
    idle_s: float = 3.0
    start_s: float = 120.0
    jump_s: float = 0.6
    beside_s: float = 10.0
    """The transcriber, without an answer: nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Why the pipeline is lost: a worker has ended, or has refused to start, or hangs."""

    stage: Stage
    reason: str
    refused: bool = False
    hangs: bool = False


class Liveness:
    """Watches one pipeline, started at `now`."""

    def __init__(self, now: float, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._checked_s = now
        self._received_s = now
        """When something last came out of the pipeline, which shows that every stage lives."""
        self._moved_s = now
        """When something last came out, long work was reported, or something was sent into an empty pipeline."""
        self._expected: dict[Slot, tuple[Epoch, int]] = {}
        """The last message that has to come out for each slot, by its rank among all of the slot, which rises."""
        self._starting: set[Stage] = set()
        self._alive_s: dict[Stage, float] = {}
        """When each stage last gave a sign of life."""
        self._last_work: dict[Stage, tuple[int, float]] = {}
        self._step_s: dict[Stage, float] = {}

    @property
    def step_s(self) -> float | None:
        """What the slowest stage lately took for a unit of work; None before there was one."""
        return max(self._step_s.values(), default=None)

    def started(self, stage: Stage, now: float) -> None:
        self._starting.add(stage)
        self._alive_s[stage] = now

    def ready(self, stage: Stage, now: float) -> None:
        """A worker is ready, and is pinged from now on."""
        self._starting.discard(stage)
        self._alive_s[stage] = now

    def progressed(self, stage: Stage, now: float) -> None:
        self._alive_s[stage] = self._moved_s = now

    def answered(self, stage: Stage, work_s: Histogram, now: float) -> None:
        """A worker has answered a ping; `work_s` is how long its units of work took so far."""
        self._alive_s[stage] = now
        count, total_s = work_s.count, work_s.total
        before, before_s = self._last_work.get(stage, (0, 0.0))
        if count > before:
            self._step_s[stage] = (total_s - before_s) / (count - before)
        self._last_work[stage] = count, total_s

    def sent(self, message: Message, now: float) -> None:
        if isinstance(message, Say | PromptMessage):  # answered when it has been said, or computed
            return
        if not self._expected:
            self._moved_s = now
        rank = message.greeting_frames - 1 if isinstance(message, Open) else _rank(message)
        self._expected[message.slot] = message.epoch, rank

    def received(self, message: Message, now: float) -> None:
        self._received_s = self._moved_s = now
        if isinstance(message, PromptMessage):
            return
        expected = self._expected.get(message.slot)
        if expected and (message.epoch, _rank(message)) >= expected:
            del self._expected[message.slot]

    def answering(self, now: float) -> bool:
        """Whether every stage is ready and has lately given a sign of life."""
        return len(self._alive_s) == len(Stage) and not self._starting and self._hang(now, ANSWERING_SHARE) is None

    def hang(self, now: float) -> Loss | None:
        """Return which stage hangs, if any; to be called every `CHECK_EVERY_S`."""
        if now - self._checked_s > self._limits.jump_s:
            self._moved_s = now
            self._alive_s = dict.fromkeys(self._alive_s, now)
        self._checked_s = now
        return self._hang(now, 1.0)

    def _hang(self, now: float, share: float) -> Loss | None:
        limits = self._limits
        for stage in self._starting:
            if now - self._alive_s[stage] > share * limits.start_s:
                return Loss(stage, f"no progress of its start for {limits.start_s:.0f} s", hangs=True)
        if self._expected:
            steps_s = limits.start_s if self.step_s is None else limits.busy_steps * self.step_s
            limit_s = max(limits.busy_s, steps_s)
            if now - self._moved_s > share * limit_s:
                return Loss(
                    min(self._alive_s, key=self._alive_s.__getitem__), f"no frame for {limit_s:.1f} s", hangs=True
                )
            return None
        for stage in self._alive_s.keys() - self._starting:
            if now - max(self._alive_s[stage], self._received_s) > share * limits.idle_s:
                return Loss(stage, f"no answer for {limits.idle_s:.0f} s", hangs=True)
        return None


def _rank(message: PipelineMessage) -> int:
    match message:
        case Frame(seq=seq) | Codes(seq=seq):
            return seq
        case Open() | Resume() | Resumed():
            return -1
        case Say() | Said():
            return -2
        case Failed():
            return _END - 1
        case Close():
            return _END
