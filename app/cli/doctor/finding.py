"""The result of one check of the doctor's."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    GOOD = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, the result, and what to type about it."""

    level: Level
    subject: str
    found: str
    advice: str = ""


def good(subject: str, found: str) -> Finding:
    return Finding(Level.GOOD, subject, found)


def note(subject: str, found: str, advice: str = "") -> Finding:
    return Finding(Level.NOTE, subject, found, advice)


def problem(subject: str, found: str, advice: str = "") -> Finding:
    return Finding(Level.PROBLEM, subject, found, advice)
