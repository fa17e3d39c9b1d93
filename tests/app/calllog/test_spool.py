from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.calllog.spool import Spool, SpoolFull, forget_rejected


def taken(spool: Spool) -> list[str]:
    """Take everything out."""
    lines = []
    while (line := spool.first()) is not None:
        lines.append(line)
        spool.drop_first()
    return lines


def left_behind(folder: Path, *lines: str) -> None:
    """Leave a spool as a run that was killed."""
    spool = Spool.create(folder)
    for line in lines:
        spool.append(line)
    spool.close()


LINES = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=20)


@given(LINES, LINES)
def test_what_goes_in_comes_out_in_order(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str]
) -> None:
    spool = Spool.create(tmp_path_factory.mktemp("spool"))
    for lines in (before, after):
        for line in lines:
            spool.append(line)
        assert taken(spool) == lines
        spool.empty()
    spool.close()


def test_a_line_may_be_as_long_as_a_call_of_hours(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    for line in ("a" * 3_000_000, "b"):
        spool.append(line)
    assert [len(line) for line in taken(spool)] == [3_000_000, 1]


def test_a_full_spool_refuses_a_line_and_keeps_the_others(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, max_bytes=10)
    spool.append("12345678")
    with pytest.raises(SpoolFull):
        spool.append("9")
    assert taken(spool) == ["12345678"]
    spool.empty()
    spool.append("9")
    assert taken(spool) == ["9"]


def test_only_what_has_arrived_is_given_up(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    spool.append("one")
    spool.append("two")
    spool.drop_first()
    spool.empty()
    assert taken(spool) == ["two"]


def test_the_spool_of_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    assert Spool.adopt(tmp_path) == []
    spool.close()


def test_the_spool_of_a_dead_run_is_taken_over_with_its_name_by_one_alone(tmp_path: Path) -> None:
    left_behind(tmp_path, "one", "two")
    (path,) = tmp_path.iterdir()
    (spool,) = Spool.adopt(tmp_path)
    assert Spool.adopt(tmp_path) == []
    assert f"{spool.name}.spool" == path.name
    assert taken(spool) == ["one", "two"]


def test_half_a_line_of_a_killed_run_comes_out_as_it_is(tmp_path: Path) -> None:
    left_behind(tmp_path, "one")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b"tw")
    (spool,) = Spool.adopt(tmp_path)
    assert taken(spool) == ["one", "tw"]


def test_a_spool_is_removed_when_nothing_waits_in_it(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    spool.append("one")
    spool.drop_first()
    spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_spool_in_which_something_waits_is_found_again(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    spool.append("one")
    spool.remove()
    (again,) = Spool.adopt(tmp_path)
    assert taken(again) == ["one"]


def test_what_no_database_takes_is_put_aside_and_can_be_forgotten(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    for line in ("ann +15550100001", "bob +15550100002"):
        spool.append(line)
    aside = spool.reject_first()
    assert spool.reject_first() == aside
    assert taken(spool) == []
    forget_rejected(tmp_path, "+15550100001")
    assert aside.read_text() == "bob +15550100002\n"


def test_nobody_else_can_read_what_waits(tmp_path: Path) -> None:
    Spool.create(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o077 == 0
