import os
from pathlib import Path

from app.telemetry.call_log.runs import Run, dead_runs
from app.telemetry.call_log.spool import Spool


def killed(folder: Path, *lines: str) -> Run:
    """Leave the file of a run that was killed."""
    run = Run(folder)
    run.leave(lines)
    os.close(run._descriptor)
    return run


def dead(folder: Path) -> list[str]:
    with dead_runs(folder, Spool(folder)) as runs:
        return [run.name for run in runs]


def waiting(folder: Path) -> list[str]:
    lines: list[str] = []
    Spool(folder).deliver(lines.append)
    return lines


def test_a_run_that_lives_is_left_alone_and_leaves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert dead(tmp_path) == []
    run.end()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_found_by_one_alone_with_when_it_was_last_alive(tmp_path: Path) -> None:
    run = killed(tmp_path)
    os.utime(tmp_path / f"{run.name}.run", (1_000, 1_000))
    with dead_runs(tmp_path, Spool(tmp_path)) as runs:
        assert [(one.name, one.alive_at.timestamp()) for one in runs] == [(run.name, 1_000)]
        assert dead(tmp_path) == []


def test_what_a_run_left_in_its_file_waits_in_the_spool_and_it_stays_as_old_as_it_was(tmp_path: Path) -> None:
    run = killed(tmp_path, "one", "two")
    os.utime(tmp_path / f"{run.name}.run", (1_000, 1_000))
    for _ in range(2):
        with dead_runs(tmp_path, Spool(tmp_path)) as (one,):
            assert one.alive_at.timestamp() == 1_000
    assert waiting(tmp_path) == ["one", "two"]


def test_a_run_that_ends_leaves_its_file_if_records_are_left_in_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.leave(["one"])
    run.end()
    assert dead(tmp_path) == [run.name]
    assert waiting(tmp_path) == ["one"]


def test_the_spool_of_an_earlier_version_is_a_dead_run(tmp_path: Path) -> None:
    (tmp_path / "cafe.spool").write_text("one\ntwo\n")
    assert dead(tmp_path) == ["cafe"]
    assert waiting(tmp_path) == ["one", "two"]


def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "folder")
    (path,) = (tmp_path / "folder").iterdir()
    path.unlink()
    (tmp_path / "folder").rmdir()
    run.touch()
    assert path.exists()
    assert dead(tmp_path / "folder") == []
    path.unlink()
    run.end()


def test_a_file_that_cannot_be_opened_is_left_alone(tmp_path: Path) -> None:
    """A folder stands for the file of another user: the tests may run as root, who may open all files."""
    (tmp_path / "theirs.run").mkdir()
    run = killed(tmp_path)
    assert dead(tmp_path) == [run.name]
