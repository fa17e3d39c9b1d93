"""What a look at one thing that a call needs has found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    GOOD = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to type about it."""

    level: Level
    subject: str
    found: str
    advice: str = ""
