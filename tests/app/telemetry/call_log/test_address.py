from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from app.config import SettingsError, read_settings
from app.telemetry.call_log.address import Address, find_address
from tests.app.telemetry.call_log.records import address_of


@pytest.mark.parametrize("url", ["off", ""])
def test_the_log_can_be_off(url: str) -> None:
    assert find_address(read_settings(database_url=url)) is None


def test_without_a_setting_calls_are_kept_in_a_file_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    address = find_address(read_settings())
    assert address
    assert address.file == Path("~/.local/share/moshi-bridge/calls.db").expanduser()
    assert address.spool_folder.parent == address.file.parent


def parameters(address: Address) -> dict[str, object]:
    return dict(conninfo_to_dict(address.conninfo))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"])
def test_a_server_may_be_written_as_other_programs_write_it(scheme: str, tmp_path: Path) -> None:
    address = address_of(f"{scheme}://ann:secret@db.example.com/calls?sslmode=require", tmp_path)
    assert parameters(address).items() >= {"host": "db.example.com", "sslmode": "require", "dbname": "calls"}.items()
    assert address.spool_folder.parent == tmp_path
    assert "secret" not in f"{address} {address!r}"
    assert "secret" not in repr(read_settings(database_url="postgresql://ann:secret@host/calls"))


@pytest.mark.parametrize(
    ("rest", "given"),
    [
        ("h/db?sslmode=require&channel_binding=require", {"sslmode": "require", "channel_binding": "require"}),
        ("h/db?options=-c%20search_path%3Dcalls", {"options": "-c search_path=calls"}),
        ("h/db?options=endpoint%3Dmy-endpoint", {"options": "endpoint=my-endpoint"}),
        ("h/db?connect_timeout=3&application_name=x", {"connect_timeout": "3", "application_name": "x"}),
        ("one:1,two:2/db?target_session_attrs=read-write", {"host": "one,two", "port": "1,2"}),
        ("/db?host=/run/postgresql", {"host": "/run/postgresql"}),
        ("%2Frun%2Fpostgresql/db", {"host": "/run/postgresql"}),
        ("[::1]:5/db", {"host": "::1", "port": "5"}),
        ("h/db?sslmode=verify-full&sslrootcert=system", {"sslmode": "verify-full", "sslrootcert": "system"}),
        ("h/db?keepalives_idle=30&tcp_user_timeout=9000&gssencmode=disable", {"keepalives_idle": "30"}),
        ("h/db?ssl=true", {"sslmode": "require"}),
        ("h?dbname=db&user=ann&password=secret", {"user": "ann", "password": "secret"}),
    ],
)
def test_every_parameter_of_libpq_reaches_it(rest: str, given: dict[str, str], tmp_path: Path) -> None:
    address = address_of(f"postgresql://{rest}", tmp_path)
    assert parameters(address).items() >= ({"connect_timeout": "5"} | given).items()
    assert "secret" not in f"{address} {address!r}"


REFUSED_QUERIES = (
    *(("pgbouncer=true", "pgbouncer"), ("sslmod=require", "sslmod"), ("connection_limit=1", "connection_limit")),
    *(("sslmode=bogus", "sslmode"), ("channel_binding=bogus", "channel_binding"), ("port=abc", "port")),
    *(("connect_timeout=abc", "connect_timeout"), ("keepalives_idle=x", "keepalives_idle")),
    *(("target_session_attrs=bogus", "target_session_attrs"), ("port=1,2", "port"), ("service=nobody", "service")),
    *(("sslmode=prefer&sslrootcert=system", "sslmode"), ("require_auth=bogus", "require_auth")),
)
"""What an address may end in that libpq does not know or cannot use, and the parameter that is named."""


@pytest.mark.parametrize(("query", "named"), REFUSED_QUERIES)
def test_what_libpq_does_not_know_or_cannot_use_is_named_in_one_line(query: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        find_address(read_settings(database_url=f"postgres://ann:secret@db.example.com/calls?{query}"))
    assert str(caught.value).startswith("DATABASE_URL: ")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("password", ["se%cret", "pa/se?cret=x", "p@secret", "p@ss:secret", "se?cret@x"])
def test_of_a_password_that_is_not_written_as_it_must_be_nothing_is_told(password: str) -> None:
    """Whether or not it can be read at all."""
    try:
        told = str(find_address(read_settings(database_url=f"postgresql://ann:{password}@db.example.com/calls")))
    except SettingsError as error:
        told = str(error)
    assert "cret" not in told


@pytest.mark.parametrize(
    ("url", "why"),
    [
        *((url, "must be sqlite:///FILE, .*or off") for url in ("calls.db", "mysql://host/calls", "sqlite://")),
        *((url, "must be sqlite:///FILE, .*or off") for url in ("sqlite:///:memory:", "postgresql://host")),
        ("sqlite:////var/lib/calls.db?timeout=5", "no parameters"),
        ("sqlite:///~calls.db", "write ~/"),
    ],
)
def test_what_is_no_database_is_told_in_one_line(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"DATABASE_URL: .*{why}") as caught:
        find_address(read_settings(database_url=url))
    assert "\n" not in str(caught.value)
