"""Deletes old calls and recordings; a clock that is wrong at a start must not delete all of them at once."""

import logging
import math
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

CHECK_EVERY_S = 6 * 3_600.0
WAIT_S = 86_400.0
"""How long it is put off to delete more than half of what there is."""


class Expirable(Protocol):
    """What can delete what is from before a moment; `count_old` returns how many that is, and how many there are."""

    def count_old(self, before: datetime) -> tuple[int, int]: ...

    def delete_old(self, before: datetime) -> int: ...


class Expiry:
    """Deletes what is older than `days`, 0 for nothing, every six hours. `noun` says what it is, in the plural.

    The date of the file `mark` is since when it is put off.
    """

    def __init__(self, what: Expirable, noun: str, days: int, mark: Path) -> None:
        self._what, self._noun, self._days, self._mark = what, noun, days, mark
        self._due_s = 0.0
        self._is_put_off = False

    def run(self, now_s: float, utc: datetime) -> None:
        """Delete what is old, if it is time to look; `now_s` is monotonic. Raises OSError and what `what` raises."""
        if not self._days or now_s < self._due_s:
            return
        self._due_s = now_s + CHECK_EVERY_S
        before = utc - timedelta(days=self._days)
        old, total = self._what.count_old(before)
        was_put_off, self._is_put_off = self._is_put_off, 2 * old > total and not self._has_waited(utc)
        if not self._is_put_off:
            self._mark.unlink(missing_ok=True)
            if old:
                log.info("%d %s older than %d days are deleted", self._what.delete_old(before), self._noun, self._days)
        elif not was_put_off:
            doubt = "they are deleted in a day if the clock still says so; is it right?"
            log.warning(
                "%d of %d %s are older than CALL_LOG_DAYS=%d days: %s", old, total, self._noun, self._days, doubt
            )

    def _has_waited(self, utc: datetime) -> bool:
        since_s, now_s = self._mark.stat().st_mtime if self._mark.exists() else math.inf, utc.timestamp()
        if since_s > now_s:  # one in the future is a wrong clock's
            self._mark.touch(0o600)
            os.utime(self._mark, (now_s, now_s))
        return now_s - since_s >= WAIT_S
