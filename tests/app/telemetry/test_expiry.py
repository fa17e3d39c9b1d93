"""When old things are deleted, with a list for a call log or a folder of recordings."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.telemetry.expiry import CHECK_EVERY_S, Expiry

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LATER = NOON + 400 * DAY


class Moments:
    """What is kept: moments."""

    def __init__(self, *kept: datetime) -> None:
        self.kept = list(kept)

    def count_old(self, before: datetime) -> tuple[int, int]:
        return sum(one < before for one in self.kept), len(self.kept)

    def delete_old(self, before: datetime) -> int:
        old, _ = self.count_old(before)
        self.kept = [one for one in self.kept if one >= before]
        return old


def run(what: Moments, folder: Path, *moments: datetime, days: int = 90) -> list[int]:
    """Expire at each of these moments; return how many are kept then."""
    expiry, left = Expiry(what, "calls", days, folder / "put-off"), []
    for number, utc in enumerate(moments):
        expiry.run(number * CHECK_EVERY_S, utc)
        left.append(len(what.kept))
    return left


def test_what_is_old_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    what = Moments(NOON, NOON + 2 * DAY, NOON + 3 * DAY)
    assert run(what, tmp_path, NOON + 2 * DAY, days=1) == [2]
    assert run(Moments(NOON), tmp_path, LATER, LATER + 9 * DAY, days=0) == [1, 1]
    assert list(tmp_path.iterdir()) == []


def test_it_looks_every_six_hours(tmp_path: Path) -> None:
    what = Moments(NOON, LATER, LATER)
    expiry = Expiry(what, "calls", 90, tmp_path / "put-off")
    for now_s, utc, left in ((0.0, NOON, 3), (CHECK_EVERY_S - 1, LATER, 3), (CHECK_EVERY_S, LATER, 2)):
        expiry.run(now_s, utc)
        assert len(what.kept) == left


def test_what_would_delete_most_is_put_off_for_a_day_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    what = Moments(NOON, NOON + DAY, NOON + 2 * DAY)
    assert run(what, tmp_path, LATER, LATER + timedelta(hours=12), LATER + timedelta(hours=23)) == [3, 3, 3]
    assert caplog.text.count("is it right?") == 1
    assert run(what, tmp_path, LATER + DAY) == [0], "also after a restart"
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_was_wrong_for_a_while_deletes_nothing(tmp_path: Path) -> None:
    what = Moments(NOON, NOON, NOON)
    assert run(what, tmp_path, LATER, NOON + DAY, LATER + DAY) == [3, 3, 3]


def test_a_put_off_date_in_the_future_does_not_delay_todays(tmp_path: Path) -> None:
    assert run(Moments(NOON), tmp_path, LATER, NOON + 91 * DAY, NOON + 92 * DAY) == [1, 1, 0]
