"""The result of one check of the doctor's."""

from enum import StrEnum
from functools import partial
from typing import NamedTuple


class Severity(StrEnum):
    GOOD = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What was checked, the result, and what to type about it."""

    severity: Severity
    subject: str
    found: str
    advice: str = ""


good, note, problem = (partial(Finding, severity) for severity in Severity)
