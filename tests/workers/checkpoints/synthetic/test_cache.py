import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workers.checkpoints.synthetic.makers import make, make_and_die, make_slowly
from workers.checkpoints.synthetic.cache import fingerprint, made_once, share


def in_processes(count: int, folder: Path, maker: Callable[[Path], None]) -> list[int | None]:
    """Make the same folder in many processes at once; return how each ended."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=made_once, args=(folder, maker)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    folder = made_once(tmp_path / "cache" / "x", make)
    assert (folder / "made").read_text() == "whole"
    assert made_once(folder, make_and_die) == folder


def test_a_maker_that_fails_leaves_nothing_behind_that_looks_whole(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once(tmp_path / "x", fail)
    assert not (tmp_path / "x").exists()


def test_a_killed_process_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    assert in_processes(1, tmp_path / "x", make_and_die) == [-signal.SIGKILL]
    assert not (tmp_path / "x").exists()
    folder = made_once(tmp_path / "x", make)
    assert [path.name for path in folder.iterdir()] == ["made"]


def test_of_many_processes_one_makes_it(tmp_path: Path) -> None:
    assert in_processes(3, tmp_path / "x", make_slowly) == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_shared_file_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    share(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")


def test_the_fingerprint_is_short_and_stable() -> None:
    assert len(fingerprint()) == 12
    assert fingerprint() == fingerprint()
