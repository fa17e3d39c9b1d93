import fcntl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.call_log.spool import NAME, Spool, SpoolFull


def delivered(spool: Spool) -> list[str]:
    """Take everything out."""
    lines: list[str] = []
    assert spool.deliver(lines.append) == len(lines)
    return lines


LINES = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=20)


@given(LINES, LINES)
def test_what_goes_in_comes_out_in_order(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str]
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"))
    for lines in (before, after):
        spool.append(*lines[:1])
        spool.append(*lines[1:])
        assert delivered(spool) == lines
        assert spool.is_empty


def test_a_line_may_be_as_long_as_a_call_of_hours(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("a" * 3_000_000, "b")
    assert [len(line) for line in delivered(spool)] == [3_000_000, 1]


def test_a_full_spool_refuses_lines_and_keeps_the_others(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10)
    spool.append("12345678")
    with pytest.raises(SpoolFull):
        spool.append("9")
    assert delivered(spool) == ["12345678"]
    spool.append("9")
    assert delivered(spool) == ["9"]


def test_what_cannot_be_delivered_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("one", "two")

    def take(line: str) -> None:
        if line == "two":
            raise ConnectionError

    with pytest.raises(ConnectionError):
        spool.deliver(take)
    assert delivered(spool) == ["one", "two"]


def test_half_a_line_of_a_killed_run_spoils_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("one")
    with (tmp_path / NAME).open("a") as file:
        file.write("tw")
    spool.append("three")
    assert delivered(spool) == ["one", "tw", "three"]


def test_nobody_waits_for_another_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("one")
    with (tmp_path / NAME).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            spool.append("two")
        with pytest.raises(BlockingIOError):
            delivered(spool)
    assert delivered(spool) == ["one"]


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new" / "folder")
    assert spool.is_empty
    assert delivered(spool) == []
    spool.append("one")
    assert delivered(spool) == ["one"]


def test_nobody_else_can_read_what_waits(tmp_path: Path) -> None:
    Spool(tmp_path).append("one")
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0
