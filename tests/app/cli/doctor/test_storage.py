from collections import namedtuple
from pathlib import Path

import psycopg
import pytest

from app.cli.doctor.finding import Finding, Severity
from app.cli.doctor.storage import FEW_HOURS, HOUR_BYTES, examine_storage
from app.config import Settings, read_settings
from tests.app.telemetry.call_log.postgres import USER, postgres

Usage = namedtuple("Usage", "total used free")


def settings(folder: Path, **changes: object) -> Settings:
    return read_settings(**{"database_url": f"sqlite:///{folder}/calls.db", "cache_dir": folder, **changes})


def findings(chosen: Settings) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine_storage(chosen)}


def test_a_call_log_that_can_be_written_is_good_and_recordings_are_not_asked_for(tmp_path: Path) -> None:
    found = findings(settings(tmp_path))
    assert list(found) == ["DATABASE_URL"]
    assert found["DATABASE_URL"].severity is Severity.GOOD
    assert str(tmp_path / "calls.db") in found["DATABASE_URL"].found


@pytest.mark.parametrize(
    ("url", "severity"),
    [
        ("off", Severity.NOTE),
        ("mysql://host/calls", Severity.PROBLEM),
        ("postgresql://ann:secret@127.0.0.1:1/calls", Severity.PROBLEM),
        ("postgresql://ann:secret@127.0.0.1:1/calls?pgbouncer=true", Severity.PROBLEM),
    ],
)
def test_a_call_log_that_keeps_nothing_is_reported_in_one_line(tmp_path: Path, url: str, severity: Severity) -> None:
    found = findings(settings(tmp_path, database_url=url))["DATABASE_URL"]
    assert found.severity is severity
    assert "secret" not in found.found
    assert "\n" not in found.found


def test_a_file_that_is_no_database_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "calls.db").write_text("this is no database, " * 100)
    assert findings(settings(tmp_path))["DATABASE_URL"].severity is Severity.PROBLEM


@pytest.mark.slow
def test_a_server_in_which_no_tables_can_be_made_is_a_problem(tmp_path: Path) -> None:
    """As for every user but the owner from PostgreSQL 15 on, unless somebody grants it."""
    with postgres() as server:
        url = server.new_database()
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("CREATE ROLE guest LOGIN")
            owner.execute("REVOKE CREATE ON SCHEMA public FROM public")
        guest = settings(tmp_path, database_url=url.replace(f"{USER}@", "guest@"))
        [found] = findings(guest).values()
    assert (found.severity, "permission denied" in found.found) == (Severity.PROBLEM, True)


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    within = tmp_path / "file" / "folder"
    found = findings(settings(tmp_path, database_url=f"sqlite:///{within}/calls.db", recordings_dir=str(within)))
    assert {name: finding.severity for name, finding in found.items()} == {
        "DATABASE_URL": Severity.PROBLEM,
        "RECORDINGS_DIR": Severity.PROBLEM,
    }
    assert "RECORDINGS_DIR" in found["RECORDINGS_DIR"].found


@pytest.mark.parametrize(("hours", "severity"), [(FEW_HOURS - 1, Severity.NOTE), (FEW_HOURS, Severity.GOOD)])
def test_a_disk_with_room_for_few_recordings_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, severity: Severity
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, hours * HOUR_BYTES))
    finding = findings(settings(tmp_path, recordings_dir=str(tmp_path / "sound")))["RECORDINGS_DIR"]
    assert finding.severity is severity
    assert f"{hours} hours" in finding.found
