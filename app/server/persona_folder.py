"""The folder of the personas: read at the start, and again when a file of it has changed."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.calls.personas import VOICE_FILES, Persona, PersonaError, Personas, gather, parse_persona
from app.config import SettingsError
from app.server.voice_recording import RecordingError, read_recording
from workers.messages import Pcm, PreparePrompt

log = logging.getLogger(__name__)

MOST_FILES = 1_000
"""Looked at before each call, in a thread beside the event loop."""
MOST_FILE_BYTES = 65_536
MOST_VOICE_BYTES = 100_000_000
"""30 s of stereo at 192 kHz are 46 MB of float32."""
RECORDING = ".wav"

Stamp = tuple[str, int, int, int]
"""Of a file: name, times of its last changes (content, inode) in ns, size."""


@dataclass(frozen=True, slots=True)
class Voice:
    """As in `PreparePrompt`; `digest` changes with the content."""

    voice: str
    digest: str
    pcm: Pcm | None = None


@dataclass(frozen=True, slots=True)
class FolderState:
    """The personas, and by their names the files that they come from and the prompts of those that have one."""

    personas: Personas = field(default_factory=Personas)
    files: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, PreparePrompt] = field(default_factory=dict)


class PersonaFolder:
    """Reads a folder, None for no personas; `state` is the last good state. One thread at a time may call it."""

    def __init__(self, folder: Path | None, default: str) -> None:
        self._folder, self._default = folder, default
        self.state = FolderState()
        self._read_at: tuple[Stamp, ...] | None = None
        self._wrong = ""
        self._voices: dict[Stamp, Voice] = {}

    def load(self) -> None:
        """Read everything. Raises SettingsError with one line for each file that is wrong."""
        try:
            self._read_at = self._stamps()
            self.state = self._read()
        except OSError as error:
            raise SettingsError(f"PERSONAS_DIR={self._folder}: {error.strerror}") from error

    def refresh(self) -> bool:
        """Read again what has changed; return whether the state is another. One that is wrong is logged once."""
        try:
            if self._stamps() == self._read_at:
                return False
            self.load()
        except (SettingsError, OSError) as error:
            self._read_at = None
            if str(error) != self._wrong:
                self._wrong = str(error)
                log.error("the personas stay as they were: %s", "; ".join(self._wrong.splitlines()))
            return False
        self._wrong = ""
        log.info("personas: %s", ", ".join(self.state.personas.by_name) or "none")
        return True

    def read_voice(self, name: str) -> Voice:
        """Return a voice by its name, as a persona has it or with `.pt` behind. Raises RecordingError and OSError."""
        if path := self._voice_file(name):
            return self._voices.get(_stamp(path)) or _read_voice(path)
        return Voice(name.removesuffix(".pt"), "")

    def _stamps(self) -> tuple[Stamp, ...]:
        """Return a stamp of each file that matters."""
        if self._folder is None:
            return ()
        with os.scandir(self._folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith((".toml", *VOICE_FILES))]
        names = [name for name in names if not name.startswith(".")]
        if len(names) > MOST_FILES:
            raise SettingsError(f"PERSONAS_DIR={self._folder}: holds {len(names):,} files, more than {MOST_FILES:,}")
        return tuple(_stamp(self._folder / name) for name in sorted(names))

    def _read(self) -> FolderState:
        wrong: list[str] = []
        named: list[tuple[str, Persona]] = []
        for name in self._persona_files():
            try:
                named.append((name, _read_persona(self._folder / name)))  # type: ignore[operator]
            except PersonaError as error:
                wrong.append(str(error))
        voices: dict[Stamp, Voice] = {}
        prompts: dict[str, PreparePrompt] = {}
        for name, persona in named:
            try:
                if prompt := self._prompt(persona, voices):
                    prompts[persona.name] = prompt
            except (RecordingError, OSError) as error:
                wrong.append(
                    f"{name}: voice: {persona.voice} {error.strerror if isinstance(error, OSError) else error}"
                )
        try:
            personas = gather(named, self._default if not wrong else "")
        except PersonaError as error:
            wrong.append(str(error))
        if wrong:
            raise SettingsError("\n".join(wrong))
        self._voices = voices
        return FolderState(personas, {persona.name: name for name, persona in named}, prompts)

    def _persona_files(self) -> Iterator[str]:
        return (stamp[0] for stamp in self._read_at or () if stamp[0].endswith(".toml"))

    def _prompt(self, persona: Persona, voices: dict[Stamp, Voice]) -> PreparePrompt | None:
        """Return the prompt of a persona; put its voice, if that is a file, into `voices`."""
        if not (persona.prompt or persona.voice):
            return None
        voice = Voice(persona.voice, persona.voice)
        if path := self._voice_file(persona.voice):
            stamp = _stamp(path)
            voice = voices[stamp] = voices.get(stamp) or self._voices.get(stamp) or _read_voice(path)
        parts = persona.prompt, voice.voice if voice.digest == voice.voice else "", voice.digest
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return PreparePrompt(key, persona.prompt, voice.voice, voice.pcm)

    def _voice_file(self, voice: str) -> Path | None:
        """Return the file of a voice; None for a voice that comes with the checkpoint."""
        if not voice or self._folder is None:
            return None
        names = [voice] if voice.endswith(VOICE_FILES) else [voice + suffix for suffix in VOICE_FILES]
        found = next((path for name in names if (path := self._folder / name).is_file()), None)
        if found is None and voice.endswith(RECORDING):
            raise RecordingError("is not in PERSONAS_DIR")
        return found


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:  # it was deleted just now, or is a link to nothing or to itself
        return path.name, 0, 0, 0
    return path.name, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def _read_persona(path: Path) -> Persona:
    """Raises PersonaError."""
    try:
        if not path.is_file():
            raise PersonaError(f"{path.name}: is no file")
        with path.open("rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)  # it may grow meanwhile
        if len(content) > MOST_FILE_BYTES:
            raise PersonaError(f"{path.name}: has more than {MOST_FILE_BYTES:,} bytes")
        return parse_persona(path.name, content.decode("utf-8-sig"))
    except OSError as error:
        raise PersonaError(f"{path.name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PersonaError(f"{path.name}: is not UTF-8; save it as plain UTF-8 text") from error


def _read_voice(path: Path) -> Voice:
    """Raises OSError and RecordingError."""
    if path.stat().st_size > MOST_VOICE_BYTES:
        raise RecordingError(f"has more than {MOST_VOICE_BYTES // 1_000_000} MB")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Voice("", digest, read_recording(path)) if path.suffix == RECORDING else Voice(str(path.absolute()), digest)
