"""What all calls add to as they go: histograms, counters, and how long the workers take for a frame."""

from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial

from app.audio.playout import PlayoutCommand, SendAudio
from app.calls.end_reason import EndReason
from app.calls.leg import SendFrame
from app.calls.observer import CallObserver
from app.calls.record import Gap
from app.calls.session import CallSession, CallState, End
from app.calls.transcript import Side, Word
from workers.histogram import Histogram
from workers.messages import Frame, Stage

LATENCY_BOUNDS_S = (0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0)
"""Nothing can be quicker than the 80 ms of a frame."""
BUFFERED_BOUNDS_S = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.4, 1.0)
GAP_BOUNDS_S = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0)
FIRST_SOUND_BOUNDS_S = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
DURATION_BOUNDS_S = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0)
APP = "app"
"""Where a frame waits last."""
FRAMES_TIMED = 64
"""Frames that may be on their way through the workers; of more, the oldest are not timed."""
PROCESSING_EMA_WEIGHT = 0.02
INITIAL_JITTER_SHARE = 0.6
"""The jitter of the workers, as a share of what they take for a frame, until calls have shown it."""
JITTER_DECAY = 0.999


@dataclass(frozen=True, slots=True)
class Histograms:
    """All in seconds. A stage's wait is from when a frame could have been worked on until it was."""

    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in Stage})
    waits: dict[str, Histogram] = field(default_factory=lambda: {place: Histogram() for place in (*Stage, APP)})
    frame: Histogram = field(default_factory=Histogram)
    """From the app and back to it."""
    mouth_to_ear: Histogram = field(default_factory=partial(Histogram, LATENCY_BOUNDS_S))
    buffered: Histogram = field(default_factory=partial(Histogram, BUFFERED_BOUNDS_S))
    first_sound: Histogram = field(default_factory=partial(Histogram, FIRST_SOUND_BOUNDS_S))
    gap: Histogram = field(default_factory=partial(Histogram, GAP_BOUNDS_S))
    """How long Moshi did not hear a caller whose call then went on."""
    duration: Histogram = field(default_factory=partial(Histogram, DURATION_BOUNDS_S))


class Statistics:
    """Of all calls since the start of the service."""

    def __init__(self) -> None:
        self.histograms = Histograms()
        self.ends: Counter[EndReason] = Counter()
        """Calls by why their first stream ended."""
        self.stream_ends: Counter[EndReason] = Counter()
        self.words: Counter[Side] = Counter()
        self.counts: Counter[str] = Counter()
        """What the streams that have ended counted, by name."""
        self.processing_s = 0.0
        """What the workers take for a frame, from the caller's PCM to Moshi's: a moving average."""
        self.jitter_s = 0.0
        """By how much a frame took longer than that: a maximum that decays."""

    def set_processing(self, processing_s: float) -> None:
        """Start from what a frame took in the self-test."""
        self.processing_s, self.jitter_s = processing_s, processing_s * INITIAL_JITTER_SHARE

    def add_processing(self, took_s: float) -> None:
        """Count what the workers took for a frame."""
        self.jitter_s = max(took_s - self.processing_s, JITTER_DECAY * self.jitter_s)
        self.processing_s += PROCESSING_EMA_WEIGHT * (took_s - self.processing_s)


class StreamStatistics(CallObserver):
    """Counts one stream."""

    def __init__(self, statistics: Statistics, session: CallSession) -> None:
        self._statistics, self._histograms, self._session = statistics, statistics.histograms, session
        self._sent: deque[tuple[int, float]] = deque(maxlen=FRAMES_TIMED)
        """Which frames the workers have, and since when."""
        self._has_sounded = False

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        if isinstance(command, SendFrame):
            self._sent.append((command.seq, now))
        elif isinstance(command, SendAudio):
            self._add_audio(command, now)

    def on_frame(self, frame: Frame, now: float) -> None:
        sent_s = self._sent_s(frame.seq)
        if len(frame.spans) == len(Stage):
            self._statistics.add_processing(frame.spans[-1].ended_s - frame.spans[0].started_s)
        if sent_s is not None:  # None: a frame of the greeting, which meets no encoder
            self._add_times(frame, sent_s, now)
        answers = frame.seq >= self._session.record.greeting_frames  # a greeting answers nothing
        if frame.pcm is not None and answers and self._session.state is CallState.LIVE:
            self._histograms.buffered.add(self._session.leg.buffered_s(now))

    def on_resumed(self, gap: Gap, now: float) -> None:
        self._histograms.gap.add(gap.seconds or 0.0)

    def on_word(self, word: Word, now: float) -> None:
        self._statistics.words[word.speaker] += 1

    def on_end(self, end: End, now: float) -> None:
        stream = self._session.stream
        self._statistics.stream_ends[end.reason] += 1
        self._statistics.ends[end.reason] += stream.number == 1
        self._statistics.counts.update(self._session.counts)
        self._histograms.duration.add(now - stream.reserved_s)

    def _add_audio(self, audio: SendAudio, now: float) -> None:
        if not self._has_sounded and self._session.stream.started_s is not None:
            self._has_sounded = True
            self._histograms.first_sound.add(now - self._session.stream.started_s)
        latency_s = self._session.leg.mouth_to_ear_s(audio)
        if latency_s is not None:
            self._histograms.mouth_to_ear.add(latency_s)

    def _add_times(self, frame: Frame, sent_s: float, now: float) -> None:
        ready_s = sent_s
        for span in frame.spans:
            self._histograms.waits[span.stage].add(span.started_s - ready_s)
            self._histograms.stages[span.stage].add(span.ended_s - span.started_s)
            ready_s = span.ended_s
        self._histograms.waits[APP].add(now - ready_s)
        self._histograms.frame.add(now - sent_s)

    def _sent_s(self, seq: int) -> float | None:
        """Return since when the workers had this frame; forget it and those before it."""
        while self._sent and self._sent[0][0] <= seq:
            number, sent_s = self._sent.popleft()
            if number == seq:
                return sent_s
        return None
