from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from workers.checkpoints.synthetic.cache import fingerprint, made_once, share


def make(folder: Path) -> None:
    folder.mkdir()
    (folder / "made").write_text("whole")


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    folder = made_once(tmp_path / "cache" / "x", make)
    assert (folder / "made").read_text() == "whole"
    assert made_once(folder, lambda _: pytest.fail("made again")) == folder


def test_a_maker_that_fails_leaves_nothing_that_looks_whole_or_is_in_the_way(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once(tmp_path / "x", fail)
    assert not (tmp_path / "x").exists()
    assert [path.name for path in made_once(tmp_path / "x", make).iterdir()] == ["made"]


def test_of_many_makers_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    """In threads: the lock belongs to an open file, not to a process."""
    begun, makers = Barrier(3), []

    def make_one(number: int) -> bool:
        def make_and_count(folder: Path) -> None:
            makers.append(number)
            make(folder)

        begun.wait()
        return (made_once(tmp_path / "x", make_and_count) / "made").exists()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(make_one, range(3))) == [True] * 3
    assert len(makers) == 1


def test_a_shared_file_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    share(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")


def test_the_fingerprint_is_short_and_stable() -> None:
    assert len(fingerprint()) == 12
    assert fingerprint() == fingerprint()
