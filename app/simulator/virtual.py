"""A call in virtual time: the session and Twilio's playout buffer, without I/O, as fast as they compute.

Theory of operation. A queue of moments, each with what happens then. The caller's packets are sent on the caller's
clock, arrive as the scenario says, and go through a real `CallSession`; its frames come back from workers that echo
after `step_s`; its audio goes into the model of Twilio's buffer, whose marks travel back. The latency of a frame is
read off the buffer: when its first sample is heard, less when it was spoken.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from app.audio import mulaw
from app.audio.playout import ClearAudio, SendAudio, SendMark
from app.calls.leg import SendFrame
from app.calls.limits import CallLimits
from app.calls.observer import CallObserver
from app.calls.record import CallRecord
from app.calls.session import CallSession, Command, End
from app.simulator.conversation import talk
from app.simulator.playout import PlayoutModel, Underrun
from app.simulator.trouble import Scenario, through
from app.twilio.events import CallSid, Event, MarkPlayed, Media, Started, StreamSid
from workers.messages import Epoch, Frame, Slot

FRAME_PACKETS = 4
CALL = CallSid("CAvirtual")
STARTED = Started(StreamSid("MZvirtual"), CALL, "AC")


@dataclass(frozen=True, slots=True)
class HeardFrame:
    """When a frame of the caller was spoken, and how much later its echo was heard."""

    spoken_s: float
    delay_s: float


@dataclass
class VirtualReport:
    """The outcome; times in seconds of the call."""

    scenario: Scenario
    record: CallRecord
    heard: list[HeardFrame] = field(default_factory=list)
    sound: bytes = b""
    """Mu-law from the start of the call on."""
    buffer_levels: list[tuple[float, float]] = field(default_factory=list)
    underruns: list[Underrun] = field(default_factory=list)

    def delay_ms(self, percent: float, from_s: float = 0.0, to_s: float = 1e9) -> float:
        """Return a percentile of the mouth-to-ear delay of what was spoken in that time."""
        delays = [one.delay_s for one in self.heard if from_s <= one.spoken_s < to_s]
        return float(np.percentile(delays, percent)) * 1000

    def underruns_after(self, moment_s: float) -> int:
        """Return how many gaps were heard from then on."""
        return sum(underrun.start_s >= moment_s for underrun in self.underruns)


def echo(frame: Frame) -> Frame:
    """Stand for the workers of a line test."""
    return frame


class _VirtualCall:
    def __init__(
        self,
        scenario: Scenario,
        said: bytes,
        workers: Callable[[Frame], Frame],
        greeting: Sequence[Frame],
        observe: Callable[[CallSession], CallObserver],
    ) -> None:
        self._scenario = scenario
        self._said = said
        self._workers = workers
        self._random = random.Random(scenario.seed)  # noqa: S311 - trouble, not secrets
        self._moments: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._greeting = greeting
        self._session = CallSession(CALL, "", CallLimits(len(greeting), 60.0, 1e9, scenario.step_s), 0.0)
        self._observer = observe(self._session)
        self._playout = PlayoutModel()
        self._report = VirtualReport(scenario, self._session.record)
        self._spoken_s: dict[int, float] = {}
        self._arrived_s = self._sent_s = self._worker_free_s = 0.0
        self._timer_s: float | None = None

    def run(self) -> VirtualReport:
        for frame in self._greeting:
            self._handle_frame(frame, 0.0)
        self._session.on_socket_open(0.0)
        self._receive(STARTED, 0.0)
        self._speak(0)
        while self._moments and self._moments[0][0] < self._scenario.ends_s:
            moment_s, _, act = heapq.heappop(self._moments)
            act(moment_s)
        self._report.sound = self._playout.heard(self._scenario.ends_s)
        self._report.underruns = self._playout.underruns
        self._report.buffer_levels = [(level.at_s, level.buffered_s) for level in self._playout.buffer_levels]
        return self._report

    def _at(self, moment_s: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._moments, (moment_s, next(self._order), act))

    def _speak(self, number: int) -> None:
        """Send the packet of that number on its way, when its last sample is spoken."""
        scenario = self._scenario
        travel_s = scenario.travel_s + self._random.uniform(0, 2 * scenario.jitter_s)
        self._arrived_s = max(self._arrived_s, through(scenario.stalls, scenario.leaves_s(number) + travel_s))
        spoken_s = number * scenario.packet_s
        self._at(spoken_s + scenario.packet_s, lambda _: self._speak(number + 1))
        if not (scenario.suppressed and any(one.delay(spoken_s) != spoken_s for one in scenario.silent)):
            self._at(self._read_s(self._arrived_s), lambda now: self._arrive(number, now))

    def _read_s(self, moment_s: float) -> float:
        """Return when our event loop gets to it."""
        return through(self._scenario.held, moment_s)

    def _arrive(self, number: int, now: float) -> None:
        place = number * mulaw.PACKET_SAMPLES % len(self._said)
        media = Media(number * 20, self._said[place : place + mulaw.PACKET_SAMPLES])
        self._receive(media, now)

    def _receive(self, event: Event, now: float) -> None:
        commands = self._session.receive(event, now)
        self._observer.on_event(event, now)
        self._do(commands, now)

    def _do(self, commands: Sequence[Command], now: float) -> None:
        for command in commands:
            if not isinstance(command, End):
                self._observer.on_sent(command, now)
            match command:
                case SendFrame():
                    self._work(command, now)
                case SendAudio():
                    self._send(now, partial(self._play, command))
                case SendMark(mark):
                    self._send(now, partial(self._mark, mark))
                case ClearAudio():
                    self._at(now + self._scenario.travel_s, self._clear)
                case End():
                    self._moments.clear()
                    return
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        due_s = self._read_s(max(now, self._session.get_timer()))
        if self._timer_s is None or due_s < self._timer_s:
            self._timer_s = due_s
            self._at(due_s, self._handle_timer)

    def _handle_timer(self, now: float) -> None:
        if self._timer_s is not None and now >= self._timer_s:
            self._timer_s = None
        self._do(self._session.handle_timer(now), now)

    def _work(self, listen: SendFrame, now: float) -> None:
        """Echo one frame. At most one waits: a newer one takes its place, as in the workers."""
        began_s = through(self._scenario.engine_late, max(now, self._worker_free_s))
        if began_s > now + self._scenario.step_s and began_s == self._worker_free_s:
            return
        self._worker_free_s = began_s + self._scenario.step_s
        began_s = self._session.record.takeover_s
        spoken_s = began_s + (listen.seq - len(self._greeting)) * FRAME_PACKETS * self._scenario.packet_s
        frame = self._workers(Frame(Slot(0), Epoch(1), listen.seq, listen.pcm))
        self._at(self._read_s(self._worker_free_s), lambda moment_s: self._answer(frame, spoken_s, moment_s))

    def _answer(self, frame: Frame, spoken_s: float, now: float) -> None:
        self._spoken_s[frame.seq] = spoken_s
        self._handle_frame(frame, now)

    def _handle_frame(self, frame: Frame, now: float) -> None:
        self._observer.on_frame(frame, now)
        self._do(self._session.handle_frame(frame, now), now)

    def _send(self, now: float, act: Callable[[float], None]) -> None:
        """See that `act` happens at Twilio's when what is sent now arrives there."""
        self._sent_s = max(self._sent_s, self._scenario.reads_s(now + self._scenario.travel_s, self._sent_s))
        self._at(self._sent_s, act)

    def _mark(self, name: str, now: float) -> None:
        self._playout.mark(name, now)
        self._return_marks(now)

    def _play(self, audio: SendAudio, now: float) -> None:
        spoken_s, starts_s = self._spoken_s.pop(audio.seq, None), now + self._playout.buffered_s(now)
        if spoken_s is not None:  # not of the greeting
            self._report.heard.append(HeardFrame(spoken_s, starts_s - spoken_s))
        self._playout.receive(audio.payload, now)
        if audio.mark:
            self._playout.mark(audio.mark, now)
        self._at(starts_s + len(audio.payload) / mulaw.SAMPLE_RATE_HZ, self._return_marks)

    def _clear(self, now: float) -> None:
        self._return(self._playout.clear(now), now)

    def _return_marks(self, now: float) -> None:
        self._return(self._playout.advance(now), now)

    def _return(self, names: list[str], now: float) -> None:
        for name in names:
            if self._scenario.marks_lost and self._random.random() < self._scenario.marks_lost:
                continue
            arrives_s = self._read_s(through(self._scenario.stalls, now + self._scenario.travel_s))
            self._at(arrives_s, lambda moment_s, name=name: self._handle_mark(name, moment_s))  # type: ignore[misc]

    def _handle_mark(self, name: str, now: float) -> None:
        self._do(self._session.receive(MarkPlayed(name), now), now)


def run_virtual(
    scenario: Scenario,
    said: bytes | None = None,
    workers: Callable[[Frame], Frame] = echo,
    greeting: Sequence[Frame] = (),
    observe: Callable[[CallSession], CallObserver] = lambda session: CallObserver(),
) -> VirtualReport:
    """Run one call in virtual time, by default a line test.

    The caller says `said`, whole packets of mu-law, over and over. `workers` turn a frame of the caller's into one of
    Moshi's; in virtual time that takes `step_s`, however long it really takes; `greeting` is what they made beforehand.
    `observe` makes what watches the session.
    """
    return _VirtualCall(scenario, said or _speech(), workers, greeting, observe).run()


def _speech() -> bytes:
    return mulaw.encode(np.resize(talk(), 60 * mulaw.SAMPLE_RATE_HZ))
