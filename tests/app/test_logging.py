import logging
import subprocess
import sys

import pytest

from app.logging import MINUTE_S, MOST_ALIKE, RepeatFilter


def record(message: str, at_s: float, level: int = logging.WARNING) -> logging.LogRecord:
    made = logging.LogRecord("app.http.twilio_routes", level, "", 0, message, ("an argument",), None)
    made.created = at_s
    return made


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_a_flood_of_one_warning_is_written_so_often_and_no_more(level: int) -> None:
    repeats = RepeatFilter()
    passed = [repeats.filter(record("refused: %s", second / 100, level)) for second in range(1_000)]
    assert passed == [True] * MOST_ALIKE + [False] * (1_000 - MOST_ALIKE)


def test_other_warnings_and_other_levels_are_not_part_of_it() -> None:
    repeats = RepeatFilter()
    for _ in range(100):
        repeats.filter(record("refused: %s", 0.0))
    assert repeats.filter(record("something else: %s", 0.1))
    assert all(repeats.filter(record("refused: %s", 0.1, level)) for level in (logging.INFO, logging.ERROR))


def test_a_minute_later_it_is_written_again_with_how_many_there_were() -> None:
    repeats = RepeatFilter()
    for _ in range(100):
        repeats.filter(record("refused: %s", 5.0))
    assert not repeats.filter(record("refused: %s", 5.0 + MINUTE_S - 0.1))
    later = record("refused: %s", 5.0 + MINUTE_S)
    assert repeats.filter(later)
    assert later.getMessage() == f"refused: an argument ({101 - MOST_ALIKE} more like it were dropped)"
    again = record("refused: %s", 6.0 + 2 * MINUTE_S)
    assert repeats.filter(again)
    assert again.getMessage() == "refused: an argument"


def test_what_may_come_for_ever_is_limited_in_every_logger() -> None:
    program = """
import logging
from app.logging import LogLevel, start_logging
import app.cluster.log_store, app.http.rate_limit, app.http.twilio_routes
start_logging(LogLevel.INFO)
for module in (app.cluster.log_store, app.http.rate_limit, app.http.twilio_routes):
    for _ in range(1000):
        module.log.warning("%s refused", "somebody")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 3 * MOST_ALIKE
