"""The result of one check of the doctor's."""

from enum import StrEnum
from functools import partial
from typing import NamedTuple


class Level(StrEnum):
    GOOD = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What was checked, the result, and what to type about it."""

    level: Level
    subject: str
    found: str
    advice: str = ""


good, note, problem = (partial(Finding, level) for level in Level)
