import os
from pathlib import Path

import pytest

from app.config import SettingsError
from app.telemetry.call_log.spool import Spool, SpoolFull, dead_spools, open_spool, records_wait


def lines(spool: Spool) -> list[str]:
    return [line.removesuffix("\n") for line in spool.lines()]


def killed(folder: Path, *waiting: str) -> Path:
    """Leave the spool of a run that was killed."""
    spool = open_spool(folder)
    for line in waiting:
        spool.append(line)
    spool._file.close()
    return spool.path


def dead(folder: Path) -> dict[str, list[str]]:
    return {spool.run: lines(spool) for spool in dead_spools(folder)}


@pytest.mark.parametrize("written", [[], ["one"], ["one", " ", "\r", "…\u2028", "\x85", "one"]], ids=len)
def test_lines_come_out_in_order_until_they_are_cleared(tmp_path: Path, written: list[str]) -> None:
    spool = open_spool(tmp_path)
    for line in written:
        spool.append(line)
    assert lines(spool) == lines(spool) == written
    assert records_wait(tmp_path) == bool(written)
    spool.clear()
    spool.append("next")
    assert lines(spool) == ["next"]
    spool.close()


def test_the_spools_of_a_folder_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(tmp_path, "12345678")
    monkeypatch.setattr("app.telemetry.call_log.spool.MAX_BYTES", 12)
    spool = open_spool(tmp_path)
    spool.append("9")
    with pytest.raises(SpoolFull):
        spool.append("9")
    assert lines(spool) == ["9"]
    spool.close()


def test_only_a_dead_run_s_spool_is_found_and_by_one_process_alone(tmp_path: Path) -> None:
    living, path = open_spool(tmp_path), killed(tmp_path, "one", "tw")
    path.write_bytes(path.read_bytes()[:-1])  # cut short by the kill
    os.utime(path, (1_000, 1_000))
    for spool in dead_spools(tmp_path):
        assert (spool.run, lines(spool), spool.alive_at.timestamp()) == (path.stem, ["one", "tw"], 1_000)
        assert dead(tmp_path) == {}
    assert dead(tmp_path) == {path.stem: ["one", "tw"]}
    living.close()


def test_a_spool_without_lines_is_removed_and_one_with_lines_stays(tmp_path: Path) -> None:
    open_spool(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
    spool = open_spool(tmp_path)
    spool.append("one")
    spool.close()
    assert dead(tmp_path) == {spool.run: ["one"]}


@pytest.mark.parametrize("name", ["waiting.spool", "cafe.run"])
def test_the_files_of_an_earlier_version_are_dead_spools(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("one\ntwo\n")
    assert dead(tmp_path) == {Path(name).stem: ["one", "two"]}


def test_a_file_that_cannot_be_opened_is_left_alone(tmp_path: Path) -> None:
    """A folder stands for the file of another user: the tests may run as root, who may open all files."""
    (tmp_path / "theirs.spool").mkdir()
    path = killed(tmp_path, "one")
    assert dead(tmp_path) == {path.stem: ["one"]}
    assert path.stat().st_mode & 0o077 == 0, "nobody else can read what waits"


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"DATABASE_URL: .*Not a directory"):
        open_spool(tmp_path / "file" / "spool")
    open_spool(tmp_path / "new").close()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
