"""What is shown during a conversation: Moshi's words as they come, and the levels of both sides."""

from rich.console import Console
from rich.status import Status
from rich.text import Text

from app.audio.playback_buffer import MS, PlaybackBuffer
from app.audio.resample import to_int16
from app.cli.meter import FLOOR_DBFS, bar
from app.server.remote.client import DecodedAudio, Event
from app.server.remote.messages import ErrorText, Handshake, TextPiece
from app.simulator.measure import level_dbfs
from workers.messages import Pcm

WAITING = "waiting for the server: it may be in another conversation, or play its prompts …"
LINE_LENGTH = 72
SENTENCE_ENDS = (".", "?", "!")
SENTENCE_LENGTH = 24


class Screen:
    """Prints whole lines; the unfinished one and the levels are in the status line of a terminal."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console, self._status = console, status
        self._line = ""
        self._heard_dbfs = FLOOR_DBFS

    def show(self, event: Event) -> None:
        match event:
            case Handshake():
                self._print("Moshi is there. Ctrl-C ends the conversation.")
            case TextPiece(text):
                self._add(text)
            case ErrorText(text):
                self._print(f"the server says: {text}")
            case DecodedAudio(samples):
                self._heard_dbfs = level_dbfs(to_int16(samples))

    def show_levels(self, said: Pcm, buffer: PlaybackBuffer) -> None:
        """Show the levels with that of a packet that was sent."""
        buffered = f"buffered {buffer.buffered // MS:3} ms"
        levels = f"you {bar(level_dbfs(to_int16(said)))}  Moshi {bar(self._heard_dbfs)}  {buffered}"
        self._status.update(Text(f"{levels}\n{self._line.strip()}"))

    def finish(self) -> None:
        """Print the line that is unfinished."""
        if line := self._line.strip():
            self._print(line)
        self._line = ""

    def _add(self, text: str) -> None:
        if len(self._line) + len(text) > LINE_LENGTH:
            self.finish()
        self._line += text
        if len(self._line) >= SENTENCE_LENGTH and self._line.endswith(SENTENCE_ENDS):
            self.finish()

    def _print(self, line: str) -> None:
        self._console.print(Text(line))
