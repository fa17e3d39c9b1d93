"""A call in virtual time: the session and Twilio's playout buffer, without I/O, as fast as they compute.

Theory of operation. A queue of moments, each with what happens then. The caller's packets are sent on the caller's
clock, arrive as the scenario says, and go through a real `CallSession`; its frames come back from workers that echo
after `step_s`; its audio goes into the model of Twilio's buffer, whose marks travel back. The latency of a frame is
read off the buffer: when its first sample is heard, less when it was spoken.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.audio import mulaw
from app.audio.playout import ClearAudio, SendAudio, SendMark
from app.calls.leg import SendFrame
from app.calls.limits import CallLimits
from app.calls.observer import CallObserver
from app.calls.record import CallRecord
from app.calls.session import CallSession, Command, End
from app.calls.suspension import ResumeCall
from app.calls.transcript import Side, Word
from app.calls.words import Known, StreamWords
from app.simulator.conversation import talk
from app.simulator.playout import BufferLevel, PlayoutModel, Underrun
from app.simulator.trouble import Scenario, through
from app.twilio.events import CallSid, Event, MarkPlayed, Media, Started, StreamSid
from workers.messages import Epoch, Frame, Resumed, Slot

FRAME_PACKETS = 4
QUIET_PACKET = bytes([mulaw.SILENCE]) * mulaw.PACKET_SAMPLES
CALL = CallSid("CAvirtual")
RESUME_S = 10.0
STARTED = Started(StreamSid("MZvirtual"), CALL, "AC")


@dataclass(frozen=True, slots=True)
class HeardFrame:
    """When a frame of the caller was spoken, and how much later its echo was heard."""

    spoken_s: float
    latency_s: float


@dataclass(slots=True)
class VirtualReport:
    """The outcome; times in seconds of the call. `sound` is mu-law from the start of the call on."""

    scenario: Scenario
    record: CallRecord
    heard: list[HeardFrame]
    sound: bytes
    buffer_levels: list[BufferLevel]
    underruns: list[Underrun]

    def latency_ms(self, percent: float, from_s: float = 0.0, to_s: float = 1e9) -> float:
        """Return a percentile of the mouth-to-ear latency of what was spoken in that time."""
        latencies = [one.latency_s for one in self.heard if from_s <= one.spoken_s < to_s]
        return float(np.percentile(latencies, percent)) * 1000

    def underruns_after(self, moment_s: float) -> int:
        return sum(underrun.start_s >= moment_s for underrun in self.underruns)


class _VirtualCall:
    def __init__(
        self,
        scenario: Scenario,
        said: bytes,
        workers: Callable[[Frame], Frame],
        greeting: Sequence[Frame],
        observe: Callable[[CallSession], CallObserver],
    ) -> None:
        self._scenario, self._said, self._workers, self._greeting = scenario, said, workers, greeting
        self._random = random.Random(scenario.seed)  # noqa: S311 - trouble, not secrets
        self._moments: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._session = CallSession(CALL, "", CallLimits(len(greeting), 60.0, 1e9, scenario.step_s), 0.0)
        self._observer = observe(self._session)
        self._words = StreamWords()
        self._playout = PlayoutModel()
        self._heard: list[HeardFrame] = []
        self._spoken_s: dict[int, float] = {}
        self._arrived_s = self._sent_s = self._worker_free_s = 0.0
        self._timer_s = math.inf
        self._pipelines = 0
        """How many were lost."""

    def run(self) -> VirtualReport:
        self._do(self._session.attach(0.0, RESUME_S, 0.0), 0.0)
        for frame in self._greeting:
            self._handle_frame(0, frame, 0.0)
        for window in self._scenario.pipeline_lost:
            self._at(window.at_s, self._lose_pipeline)
            self._at(window.end_s, lambda now: self._do(self._session.attach(now, RESUME_S, 0.0), now))
        self._session.on_socket_open(0.0)
        self._receive(STARTED, 0.0)
        self._keep(self._words.start(len(self._greeting), 0.0))
        self._speak(0)
        while self._moments and self._moments[0][0] < self._scenario.ends_s:
            moment_s, _, act = heapq.heappop(self._moments)
            act(moment_s)
        self._keep(self._words.flush(Side.MOSHI))
        sound, levels = self._playout.heard(self._scenario.ends_s), self._playout.buffer_levels
        return VirtualReport(self._scenario, self._session.record, self._heard, sound, levels, self._playout.underruns)

    def _at(self, moment_s: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._moments, (moment_s, next(self._order), act))

    def _at_ours(self, moment_s: float, act: Callable[[float], None]) -> None:
        """See that `act` happens when our event loop gets to it."""
        self._at(through(self._scenario.held, moment_s), act)

    def _at_twilio(self, now: float, act: Callable[[float], None]) -> None:
        """See that `act` happens when Twilio reads what is sent now."""
        self._sent_s = max(self._sent_s, self._scenario.reads_s(now + self._scenario.travel_s, self._sent_s))
        self._at(self._sent_s, act)

    def _speak(self, number: int) -> None:
        """Send the packet of that number on its way, when its last sample is spoken."""
        scenario = self._scenario
        travel_s = scenario.travel_s + self._random.uniform(0, 2 * scenario.jitter_s)
        self._arrived_s = max(self._arrived_s, through(scenario.stalls, scenario.leaves_s(number) + travel_s))
        spoken_s = number * scenario.packet_s
        self._at(spoken_s + scenario.packet_s, lambda _: self._speak(number + 1))
        start = number * mulaw.PACKET_SAMPLES % len(self._said)
        is_silent = through(scenario.silent, spoken_s) != spoken_s
        packet = QUIET_PACKET if is_silent else self._said[start : start + mulaw.PACKET_SAMPLES]
        if packet != QUIET_PACKET or not scenario.suppressed:
            self._at_ours(self._arrived_s, partial(self._receive, Media(number * 20, packet)))

    def _receive(self, event: Event, now: float) -> None:
        commands = self._session.receive(event, now)
        self._observer.on_event(event, now)
        self._do(commands, now)

    def _do(self, commands: Sequence[Command], now: float) -> None:
        for command in commands:
            if isinstance(command, SendFrame | SendAudio | SendMark | ClearAudio):
                self._observer.on_sent(command, now)
            match command:
                case SendFrame():
                    self._work(command, now)
                case ResumeCall():
                    self._resume(command, now)
                case SendAudio():
                    self._at_twilio(now, partial(self._play, command))
                case SendMark(mark):
                    self._at_twilio(now, partial(self._mark, mark))
                case ClearAudio():
                    self._at(now + self._scenario.travel_s, lambda then: self._return(self._playout.clear(then), then))
                case End():
                    self._moments.clear()
                    return
        due_s = through(self._scenario.held, max(now, self._session.get_timer()))
        if due_s < self._timer_s:
            self._timer_s = due_s
            self._at(due_s, self._handle_timer)

    def _handle_timer(self, now: float) -> None:
        if now >= self._timer_s:
            self._timer_s = math.inf
        self._do(self._session.handle_timer(now), now)

    def _work(self, listen: SendFrame, now: float) -> None:
        """Work on one frame. At most one waits: a newer one takes its place, as in the workers."""
        scenario = self._scenario
        began_s = through(scenario.engine_late, max(now, self._worker_free_s))
        if began_s > now + scenario.step_s and began_s == self._worker_free_s:
            return
        self._worker_free_s = began_s + scenario.step_s
        number = (listen.seq - len(self._greeting)) * FRAME_PACKETS
        self._spoken_s[listen.seq] = self._session.record.takeover_s + number * scenario.packet_s
        frame = self._workers(Frame(Slot(0), Epoch(1), listen.seq, listen.pcm))
        self._at_ours(self._worker_free_s, partial(self._handle_frame, self._pipelines, frame))

    def _lose_pipeline(self, now: float) -> None:
        self._pipelines += 1
        self._do(self._session.suspend("lost", now, RESUME_S), now)

    def _resume(self, command: ResumeCall, now: float) -> None:
        """Read the gap step by step; the workers take no time to get back to where they were."""
        for frame in command.gap:
            self._worker_free_s = max(now, self._worker_free_s) + self._scenario.step_s
            answer = self._workers(Frame(Slot(0), Epoch(1), frame.seq, frame.pcm))
            self._at_ours(self._worker_free_s, partial(self._handle_frame, self._pipelines, answer))
        resumed = Resumed(Slot(0), Epoch(1), 0, 0)
        self._at_ours(now, lambda then: self._do(self._session.handle_resumed(resumed, then), then))

    def _handle_frame(self, pipeline: int, frame: Frame, now: float) -> None:
        if pipeline != self._pipelines:
            return
        frame = self._session.muted(frame)
        self._observer.on_frame(frame, now)
        self._keep(self._words.add_frame(frame.seq, frame.text, now))
        self._do(self._session.handle_frame(frame, now), now)

    def _keep(self, known: Iterable[Known]) -> None:
        self._session.record.words += [one for one in known if isinstance(one, Word)]

    def _mark(self, name: str, now: float) -> None:
        self._playout.mark(name, now)
        self._return_marks(now)

    def _play(self, audio: SendAudio, now: float) -> None:
        spoken_s, starts_s = self._spoken_s.pop(audio.seq, None), now + self._playout.buffered_s(now)
        if spoken_s is not None:  # not of the greeting
            self._heard.append(HeardFrame(spoken_s, starts_s - spoken_s))
        self._playout.receive(audio.payload, now)
        if audio.mark:
            self._playout.mark(audio.mark, now)
        self._at(starts_s + len(audio.payload) / mulaw.SAMPLE_RATE_HZ, self._return_marks)

    def _return_marks(self, now: float) -> None:
        self._return(self._playout.advance(now), now)

    def _return(self, names: list[str], now: float) -> None:
        lost = self._scenario.marks_lost
        for name in names:
            if not lost or self._random.random() >= lost:
                arrives_s = through(self._scenario.stalls, now + self._scenario.travel_s)
                self._at_ours(arrives_s, partial(self._handle_mark, MarkPlayed(name)))

    def _handle_mark(self, mark: MarkPlayed, now: float) -> None:
        self._do(self._session.receive(mark, now), now)


def run_virtual(
    scenario: Scenario,
    said: bytes | None = None,
    workers: Callable[[Frame], Frame] = lambda frame: frame,
    greeting: Sequence[Frame] = (),
    observe: Callable[[CallSession], CallObserver] = lambda session: CallObserver(),
) -> VirtualReport:
    """Run one call in virtual time, by default a line test.

    The caller says `said`, whole packets of mu-law, over and over. `workers` turn a frame of the caller's into one of
    Moshi's; in virtual time that takes `step_s`, however long it really takes; `greeting` is what they made beforehand.
    `observe` makes what watches the session.
    """
    speech = said or mulaw.encode(np.resize(talk(), 60 * mulaw.SAMPLE_RATE_HZ))
    return _VirtualCall(scenario, speech, workers, greeting, observe).run()
