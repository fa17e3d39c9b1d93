"""One call on its way from the queue to the disk, in the writer's thread."""

from pathlib import Path

from app.telemetry.recording.recorder import Begun, CallRecorder, Cleared, Ended, Heard, Moment, Said, Stepped
from app.telemetry.recording.recording_file import RecordingFile
from app.telemetry.recording.store import TAPE, TOKENS
from app.telemetry.recording.timeline import Piece, Timeline, joined
from app.telemetry.recording.tokens import TokenHeader, TokenLog

SYNC_EVERY = 2
"""Turns after which the disk must have it: what the system holds back survives us, but not the system."""


class Take:
    """The tape and the token log of one call; they are made when the stream begins.

    `path` is that of the recording without suffix. What goes wrong is noted as the recording's fault, and ends it.
    """

    def __init__(self, recorder: CallRecorder, path: Path, header: TokenHeader) -> None:
        self.call_sid = header.call_sid
        self.recording = recorder.recording
        self.tape: RecordingFile | None = None
        self.over = False
        """Whether nothing more is to be written."""
        self._recorder, self._path, self._header = recorder, path, header
        self._timeline: Timeline | None = None
        self._log: TokenLog | None = None
        self._turns = 0

    def turn(self) -> None:
        """Write what has come since the last turn."""
        over, inbox = self._recorder.over or bool(self.recording.fault), self._recorder.inbox
        try:
            self._write([inbox.popleft() for _ in range(len(inbox))])
        except OSError as error:
            self.break_off(error.strerror or str(error))
        self.over = over or bool(self.recording.fault)

    def break_off(self, fault: str) -> None:
        """Write no more, for a reason."""
        self.over, self.recording.fault = True, fault
        if self.tape is None:
            self.recording.name = ""
        if self._recorder.over:
            self._recorder.when_broken()

    def close(self) -> None:
        """Let go of the files."""
        for file in (self.tape, self._log):
            if file:
                file.close()

    def _write(self, moments: list[Moment]) -> None:
        pieces = joined(piece for moment in moments for piece in self._place(moment))
        if self.tape is None or not moments:
            return
        if self._log:
            self._log.write()
        self.tape.write(pieces)
        self._turns += 1
        if isinstance(moments[-1], Ended) and self._timeline:
            self.tape.end(max(0, self._timeline.at(moments[-1].at_s)))
        elif self._turns % SYNC_EVERY:
            return
        self.tape.sync()

    def _place(self, moment: Moment) -> list[Piece]:
        match moment:
            case Begun(at_s):
                self._timeline, self.tape = Timeline(at_s), RecordingFile(self._with_suffix(TAPE))
            case Stepped(seq, tokens):
                self._log = self._log or TokenLog(self._with_suffix(TOKENS), self._header)
                self._log.add(seq, tokens)
            case Heard(begin, arrived_s, payload) if self._timeline:
                return self._timeline.hear(begin, arrived_s, payload)
            case Said(payload, heard_s) if self._timeline:
                return self._timeline.say(payload, heard_s)
            case Cleared(at_s) if self._timeline:
                return self._timeline.clear(at_s)
        return []

    def _with_suffix(self, suffix: str) -> Path:
        return self._path.with_name(f"{self._path.name}{suffix}")
