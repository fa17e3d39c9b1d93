"""The files of one call that is recorded, in the writer's thread."""

from pathlib import Path

from app.telemetry.recording.recorder import CallRecorder, StepTokens
from app.telemetry.recording.recording_file import RecordingFile
from app.telemetry.recording.store import TOKENS, WAV
from app.telemetry.recording.timeline import Piece
from app.telemetry.recording.tokens import TokenHeader, TokenLog

SYNC_EVERY = 2
"""Writes after which the disk must have it: what the system holds back survives our death, but not its own."""


class CallFiles:
    """The recording and the token log of one stream; they are made when it begins.

    `path` is that of the recording without suffix. What goes wrong is noted as the recording's fault, and ends it.
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
        """Write what has come since the last time."""
        is_over, waiting = self._recorder.is_over or bool(self.recording.fault), self._recorder.queue
        try:
            self._write([waiting.popleft() for _ in range(len(waiting))])
        except OSError as error:
            self.break_off(error.strerror or str(error))
        self.is_over = is_over or bool(self.recording.fault)

    def break_off(self, fault: str) -> None:
        """Write no more, for a reason."""
        self.is_over, self.recording.fault = True, fault
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
            if isinstance(item, StepTokens):
                self._tokens.add(*item)
        if not self._recorder.has_begun:
            return
        self.file = self.file or RecordingFile(self._path.with_name(f"{self._path.name}{WAV}"))
        self._tokens.write()
        self.file.write([item for item in items if isinstance(item, Piece)])
        self._writes += bool(items)
        if self._recorder.is_over:
            self.file.end(self._recorder.length)
        if self._recorder.is_over or self._writes % SYNC_EVERY == 0:
            self.file.sync()
