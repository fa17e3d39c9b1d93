from pathlib import Path

import pytest

from app.calllog.address import find_address, make_folders
from app.config import SettingsError, read_settings


@pytest.mark.parametrize("url", ["off", ""])
def test_the_log_can_be_off(url: str) -> None:
    assert find_address(read_settings(database_url=url)) is None


def test_without_a_setting_calls_are_kept_in_a_file_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    address = find_address(read_settings())
    assert address
    assert address.file == Path("~/.local/share/moshi-bridge/calls.db").expanduser()
    assert address.spool_folder.parent == address.file.parent


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"])
def test_a_server_is_asked_through_asyncpg(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}://ann:secret@db.example.com/calls?sslmode=require"
    address = find_address(read_settings(database_url=url, cache_dir=tmp_path))
    assert address
    assert address.url.drivername == "postgresql+asyncpg"
    assert dict(address.url.query) == {"ssl": "require"}, "asyncpg's word for it"
    assert address.spool_folder.parent == tmp_path
    assert "secret" not in str(address)


@pytest.mark.parametrize(
    "url", ["calls.db", "mysql://host/calls", "sqlite://", "sqlite:///:memory:", "postgresql://host"]
)
def test_what_is_no_database_is_told_in_one_line(url: str) -> None:
    with pytest.raises(SettingsError, match=r"DATABASE_URL: must be sqlite:///FILE, .*or off") as caught:
        find_address(read_settings(database_url=url))
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_told_before_calls_come(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    address = find_address(read_settings(database_url=f"sqlite:///{tmp_path}/file/calls.db"))
    assert address
    with pytest.raises(SettingsError, match=r"DATABASE_URL: .*Not a directory"):
        make_folders(address)


def test_settings_that_are_shown_hide_the_password() -> None:
    assert "secret" not in repr(read_settings(database_url="postgresql://ann:secret@host/calls"))
