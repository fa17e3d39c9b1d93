"""One stream of a call: what the event loop hands over, without waiting, and what the writer's thread does with it."""

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from app.audio import mulaw
from app.audio.playout import ClearAudio, PlayoutCommand, SendAudio
from app.audio.resample import to_int16
from app.calls.chat_inbound import ChatMedia
from app.calls.leg import SendFrame
from app.calls.observer import CallObserver
from app.calls.record import Recording
from app.calls.session import CallSession, End
from app.calls.suspension import Suspended
from app.telemetry.recording.audio_files import RecordingFile
from app.telemetry.recording.store import TOKENS, WAV
from app.telemetry.recording.timeline import Piece, Timeline
from app.telemetry.recording.tokens import TokenHeader, TokenLog
from app.twilio.events import Event, Media, Started
from workers.messages import Frame

log = logging.getLogger(__name__)

MAX_QUEUED = 4_096
"""A minute of a call. If more waits for the writer, the recording is broken off."""
MAX_EARLY = 12
"""Frames sent before the round trip is known, a second's worth: by then a mark has come back or never will."""
SYNC_EVERY = 2
"""Writes after which the disk must have it: what the system holds back survives our death, but not its own."""
TOO_SLOW = "the disk did not keep up"
OUR_FAULT = "an error of this service's own, see its log"
NO_FOLDER = "RECORDINGS_DIR is not set"


class StepTokens(NamedTuple):
    """The record of one step in a token log."""

    seq: int
    tokens: bytes


ANEW = StepTokens(-1, b"")
"""The steps so far, of a greeting that nobody has heard, are not those of the call."""


class CallRecorder(CallObserver):
    """Observes one stream. The event loop puts into `queue`, the writer's thread removes from it."""

    def __init__(self, session: CallSession, recording: Recording, limit: int = MAX_QUEUED) -> None:
        self.recording = recording
        self.queue: deque[Piece | StepTokens] = deque()
        self.is_over = False
        """Whether nothing more will come; then `length` is that of the recording, in samples."""
        self.length = 0
        self.when_broken: Callable[[], object] = lambda: None
        """Called by the writer's thread when the recording is broken off after the call is over."""
        self.session, self._limit = session, limit
        self._timeline: Timeline | None = None
        self._early: list[SendAudio] | None = []

    @property
    def has_begun(self) -> bool:
        return self._timeline is not None

    def on_event(self, event: Event, now: float) -> None:
        match event:
            case Media() if self._timeline:
                begin = self.session.leg.position(event.timestamp_ms)
                self._put(*self._timeline.place_inbound(begin, now, _payload(event)))
            case Started() if self.session.stream.started_s == now:
                self._timeline = Timeline(now, self.session.leg.rate_hz)

    def on_sent(self, command: PlayoutCommand | SendFrame, now: float) -> None:
        """Record Moshi's audio. What is sent before the round trip is known is held back for a while."""
        round_trip_s = self.session.leg.round_trip_s
        match command:
            case SendAudio() if self._early is not None and round_trip_s is None:
                self._early.append(command)
                if len(self._early) > MAX_EARLY:
                    self._place_early(0.0)
            case SendAudio():
                self._place_early(round_trip_s or 0.0)
                self._place(command, 0.0)
            case ClearAudio(heard_s):
                self._place_early(round_trip_s or 0.0)
                if self._timeline:
                    self._put(*self._timeline.clear(heard_s))

    def on_frame(self, frame: Frame, now: float) -> None:
        if frame.tokens:
            self._put(StepTokens(frame.seq, frame.tokens))

    def on_suspended(self, suspended: Suspended, now: float) -> None:
        if suspended.anew:
            self._put(ANEW)

    def on_end(self, end: End, now: float) -> None:
        """The call is over; if the stream never started there is no recording."""
        self._place_early(0.0)
        if self._timeline:
            self.length = max(0, self._timeline.at(now))
        else:
            self.recording.name = ""
        self.is_over = True

    def on_error(self) -> None:
        self.recording.fault = OUR_FAULT
        if not self.has_begun:
            self.recording.name = ""

    def _place_early(self, round_trip_s: float) -> None:
        early, self._early = self._early, None
        for command in early or ():
            self._place(command, round_trip_s)

    def _place(self, command: SendAudio, later_s: float) -> None:
        if self._timeline:
            self._put(*self._timeline.place_outbound(_payload(command), command.heard_s + later_s))

    def _put(self, *items: Piece | StepTokens) -> None:
        if self.is_over or self.recording.fault:
            return
        if len(self.queue) + len(items) > self._limit:
            self.recording.fault = TOO_SLOW
        else:
            self.queue.extend(items)


class CallFiles:
    """The recording and the token log of one stream; they are made when it begins.

    `path` is that of the recording without suffix. What goes wrong ends the recording and is its `fault`.
    """

    def __init__(self, recorder: CallRecorder, path: Path, header: TokenHeader) -> None:
        self.call_sid, self.recording = header.call_sid, recorder.recording
        self.file: RecordingFile | None = None
        self.is_over = False
        """Whether nothing more is to be written."""
        self._recorder, self._path = recorder, path
        self._tokens = TokenLog(path.with_name(f"{path.name}{TOKENS}"), header)
        self._writes = 0

    def write(self) -> None:
        is_over, waiting = self._recorder.is_over or bool(self.recording.fault), self._recorder.queue
        try:
            self._write([waiting.popleft() for _ in range(len(waiting))])
        except OSError as error:
            self._break_off(error.strerror or str(error))
        except Exception:
            log.exception("a recording is lost")
            self._break_off(OUR_FAULT)
        self.is_over = is_over or bool(self.recording.fault)

    def _break_off(self, fault: str) -> None:
        self.recording.fault = fault
        if self.file is None:
            self.recording.name = ""
        if self._recorder.is_over:
            self._recorder.when_broken()

    def close(self) -> None:
        self._tokens.close()
        if self.file:
            self.file.close()

    def _write(self, items: list[Piece | StepTokens]) -> None:
        for item in items:
            if item is ANEW:
                self._tokens.restart()
            elif isinstance(item, StepTokens):
                self._tokens.add(*item)
        if not self._recorder.has_begun:
            return
        self.file = self.file or RecordingFile(
            self._path.with_name(f"{self._path.name}{WAV}"), self._recorder.session.leg.rate_hz
        )
        self._tokens.write()
        self.file.write([item for item in items if isinstance(item, Piece)])
        self._writes += bool(items)
        if self._recorder.is_over:
            self.file.end(self._recorder.length)
        if self._recorder.is_over or self._writes % SYNC_EVERY == 0:
            self.file.sync()


def _payload(audio: Media | SendAudio) -> bytes:
    """Return mu-law at the rate of the leg."""
    pcm = audio.pcm if isinstance(audio, ChatMedia | SendAudio) else None
    return audio.payload if pcm is None else mulaw.encode(to_int16(pcm))


def record_nothing(session: CallSession, asked: bool) -> None:
    """Record no calls; one that was asked for says why."""
    if asked:
        session.stream.recording = Recording(fault=NO_FOLDER)
