"""Personas: who answers, with which greeting, prompt, voice and sampling, by the number that is called.

A persona is a TOML file; its name is the file's, unless the file says otherwise. A persona that the caller's call names
wins over the one of the called number, and that over the default. Nothing here reads files.
"""

import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from app.calls.prompts import MOST_PROMPT
from app.calls.transfer import parse_target
from app.setting_types import E164, AudioTopK, PaddingBias, RepetitionPenalty, Temperature, TextTopK
from app.twilio.parties import cleaned, name_of
from workers.messages import CallPersona, PreparePrompt

VOICE_FILES = (".pt", ".safetensors", ".wav")
MOST_SHOWN = 80
"""Characters of what is wrong in a file, in the line that says so."""


REASONS = {
    "string_pattern_mismatch": "must be small letters, digits, - and _, at most 40, and begin with a letter or digit",
    "string_type": "must be text in quotes",
    "tuple_type": 'must be a list, as in ["+15551234567"]',
    "model_type": "must be a table, as in [sampling]",
}
"""What pydantic says in terms of Python, in those of TOML."""


class PersonaError(ValueError):
    """A persona's file is wrong; the message is one line that names it."""


def _voice(name: str) -> str:
    if name and (PurePath(name).name != name or name.startswith(".") or not name.isprintable()):
        raise ValueError("is the name of a voice or of a file in PERSONAS_DIR, not a path")
    return name


def _text(text: str) -> str:
    if any(unicodedata.category(one) == "Cc" and one not in "\t\n\r" for one in text):
        raise ValueError("has control characters")
    return text


def _number(number: str) -> str:
    name = name_of(number)
    if not (E164.fullmatch(name) and cleaned(number).startswith(("+", "00"))):
        raise ValueError(f"{number[:MOST_SHOWN]!r} is no number with + and country code, like +15551234567")
    return name


Stripped = StringConstraints(strip_whitespace=True)
Printable = AfterValidator(_text)
VoiceName = Annotated[str, Stripped, AfterValidator(_voice)]


class PersonaSampling(BaseModel):
    """Sampling of a persona, where it differs from the settings; names are those of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_temperature: Temperature | None = None
    text_top_k: TextTopK | None = None
    audio_temperature: Temperature | None = None
    audio_top_k: AudioTopK | None = None
    repetition_penalty: RepetitionPenalty | None = None
    padding_bias: PaddingBias | None = None

    @property
    def given(self) -> tuple[tuple[str, float], ...]:
        """What is set, by name."""
        return tuple((name, value) for name, value in self if value is not None)


class Persona(BaseModel):
    """What a file says. `voice` "" is the checkpoint's own; `notes` are for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern="^[a-z0-9][a-z0-9_-]{0,39}$")
    numbers: tuple[Annotated[str, AfterValidator(_number)], ...] = ()
    greeting: Annotated[str, Field(max_length=500), Stripped, Printable] = ""
    prompt: Annotated[str, Field(max_length=MOST_PROMPT), Stripped, Printable] = ""
    voice: VoiceName = ""
    sampling: PersonaSampling = PersonaSampling()
    transfer_to: Annotated[str, AfterValidator(parse_target)] = ""
    notes: Annotated[str, Printable] = ""


NOBODY = Persona(name="moshi")
"""Moshi as its weights are, when there are no personas."""


@dataclass(frozen=True, slots=True)
class Personas:
    """All personas, and the one for calls that choose none."""

    default: Persona = NOBODY
    by_name: Mapping[str, Persona] = field(default_factory=dict)
    by_number: Mapping[str, Persona] = field(default_factory=dict)

    def choose(self, name: str, called: str) -> Persona:
        """Return the persona that a call names, else that of the number called, else the default."""
        return self.by_name.get(name) or self.by_number.get(name_of(called)) or self.default


@dataclass(frozen=True, slots=True)
class Chosen:
    """Who speaks in a call: the persona's name, "" for Moshi as its weights are, and what the engine must know.

    `prompt` is the one-time prompt that the call begins with, None for that of its persona, or for none. `transfer_to`
    is whom its calls are transferred to, "" for TRANSFER_TO.
    """

    name: str = ""
    call: CallPersona = field(default_factory=CallPersona)
    prompt: PreparePrompt | None = None
    transfer_to: str = ""


def choose_nobody(name: str, called: str, prompt: str) -> Chosen:
    """Return Moshi as its weights are, whatever persona and prompt a call names and whatever number it calls."""
    return Chosen()


def parse_persona(file_name: str, text: str) -> Persona:
    """Return the persona of a file's text. Raises PersonaError."""
    if not file_name.isprintable():
        raise PersonaError(f"{file_name!r}: the name of the file has control characters")
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PersonaError(f"{file_name}: is no TOML ({error})") from error
    try:
        return Persona.model_validate({"name": PurePath(file_name).stem, **content})
    except ValidationError as error:
        raise PersonaError(f"{file_name}: {_reason(error.errors()[0])}") from error


def _reason(error: ErrorDetails) -> str:
    where, kind = ".".join(map(str, error["loc"])), error["type"]
    if kind == "extra_forbidden":
        keys = Persona.model_fields if len(error["loc"]) == 1 else PersonaSampling.model_fields
        reason = f"is not a key; the keys are {', '.join(keys)}"
    else:
        reason = REASONS.get(kind) or error["msg"].removeprefix("Value error, ")
    return f"{(where if where.isprintable() else ascii(where))[:MOST_SHOWN]}: {reason}"


def gather(personas: Iterable[tuple[str, Persona]], default: str) -> Personas:
    """Return the personas of all files, by file name. Raises PersonaError when two clash or the default is missing."""
    by_name: dict[str, Persona] = {}
    by_number: dict[str, Persona] = {}
    for file_name, persona in personas:
        if persona.name in by_name:
            raise PersonaError(f"{file_name}: another file has the name {persona.name!r}")
        by_name[persona.name] = persona
        for number in persona.numbers:
            if number in by_number:
                raise PersonaError(f"{file_name}: {number} is answered by {by_number[number].name!r} already")
            by_number[number] = persona
    if default and default not in by_name:
        known = ", ".join(sorted(by_name)) or "none"
        raise PersonaError(f"PERSONA={default}: there is no such persona in PERSONAS_DIR (there is {known})")
    return Personas(by_name.get(default, NOBODY), by_name, by_number)
