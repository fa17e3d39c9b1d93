"""The commands on a database that a service has left; each is asked as from the terminal."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.main import cli
from app.config import read_settings
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.entry import CallEntry
from app.telemetry.call_log.spool import open_spool
from app.twilio.events import CallSid
from tests.app.telemetry.call_log.records import ANN, BOB, EVE, entry, outbound, stream

HIS = "+15550100001"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Address:
    """A database in which nothing is yet, which the commands use."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/calls.db")
    monkeypatch.setenv("COLUMNS", "160")
    address = find_address(read_settings())
    assert address
    address.spool_folder.mkdir()
    return address


def fill(address: Address, *entries: CallEntry) -> None:
    database = Database(address)
    database.migrate()
    for one in entries:
        database.write(one)


def left_behind(address: Address, one: CallEntry) -> None:
    """Leave a record in the spool of a killed run."""
    spool = open_spool(address.spool_folder)
    spool.append(one.as_line())
    spool.close()


def ask(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def assert_fails(result: Result, status: int, why: str) -> None:
    """It says why in one line, and no password."""
    assert (result.exit_code, result.stdout) == (status, "")
    assert why in result.stderr
    assert "secret" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def listed() -> list[str]:
    return [call["call_sid"] for call in json.loads(ask("calls", "--json").stdout)]


def test_the_last_calls_are_a_table_or_json(address: Address) -> None:
    fill(address, entry(ANN), entry(BOB))
    result = ask("calls")
    assert result.exit_code == 0
    assert ANN[-6:] in result.stdout
    assert BOB[-6:] in result.stdout
    (call,) = json.loads(ask("calls", "--json", "--limit", "1").stdout)
    assert (call["end_reason"], call["caller_masked"]) == ("caller hung up", "…0001")


def test_one_call_is_shown_by_the_end_of_its_sid(address: Address) -> None:
    fill(address, entry(ANN), entry(BOB))
    assert ANN in ask("calls", "show", ANN[-6:]).stdout
    assert json.loads(ask("calls", "show", ANN[-6:], "--json").stdout)["transcript"][0]["text"] == "Hello."


def test_what_was_said_is_searched(address: Address) -> None:
    fill(address, entry(ANN))
    result = ask("calls", "search", "HELLO")
    assert (result.exit_code, "Hello." in result.stdout, ANN[-6:] in result.stdout) == (0, True, True)
    [found] = json.loads(ask("calls", "search", "hello", "--json").stdout)
    assert (found["call_sid"], found["speaker"], found["at_s"]) == (ANN, "moshi", 2.0)
    assert ask("calls", "search", '"OR').stdout == "nothing found\n"


@pytest.mark.parametrize(("sid", "why"), [("CA", "more than one call"), ("nobody", "no call")])
def test_a_sid_that_is_none_or_many_is_reported_in_one_line(address: Address, sid: str, why: str) -> None:
    fill(address, entry(ANN), entry(BOB))
    assert_fails(ask("calls", "show", sid), 1, f"moshi-bridge: {why}")


def test_before_the_first_call_there_is_nothing_to_show_and_nothing_is_made(address: Address) -> None:
    result = ask("calls")
    assert (result.exit_code, result.stdout) == (0, f"no calls yet: there is no {address}\n")
    assert address.file
    assert not address.file.exists()


@pytest.mark.parametrize("arguments", [("calls",), ("calls", "show", ANN), ("forget", HIS)])
@pytest.mark.parametrize(
    ("url", "status", "why"),
    [
        ("off", 2, "DATABASE_URL is off"),
        ("nonsense", 2, "DATABASE_URL: must be"),
        ("postgresql://ann:secret@127.0.0.1:1/calls", 1, "does not answer"),
        ("postgresql://ann:secret@127.0.0.1:1/calls?pgbouncer=true", 2, "pgbouncer"),
        ("postgres://ann:secret@127.0.0.1:1/calls?sslmode=bogus", 2, "sslmode"),
    ],
    ids=["off", "nonsense", "away", "unknown parameter", "wrong parameter"],
)
def test_a_log_that_cannot_be_asked_is_reported_in_one_line(
    arguments: tuple[str, ...], url: str, status: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert_fails(ask(*arguments), status, why)


def record(folder: Path, call_sid: str, second: int = 0) -> str:
    name = f"20260102T12000{second}Z-{call_sid}"
    folder.mkdir(exist_ok=True)
    for suffix in (".flac", ".tokens"):
        (folder / f"{name}{suffix}").touch()
    return name


def test_the_recordings_of_all_streams_of_a_person_are_forgotten_as_well(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recordings"
    monkeypatch.setenv("RECORDINGS_DIR", str(folder))
    names = [record(folder, ANN, second) for second in range(3)]  # the last one is in no record
    streams = [stream(number, recording=name) for number, name in enumerate(names[:2], 1)]
    theirs = replace(entry(EVE, caller="+15550100009"), recording=record(folder, EVE))
    fill(address, replace(entry(ANN), recording=names[1], streams=streams), theirs)
    assert ask("forget", HIS).stdout == "1 call with …0001 deleted, with 3 recordings\n"
    assert {path.name.partition("-")[2] for path in folder.iterdir()} == {f"{EVE}.flac", f"{EVE}.tokens"}


def test_nobody_is_forgotten_whose_recordings_would_stay(address: Address, tmp_path: Path) -> None:
    fill(address, replace(entry(ANN), recording=record(tmp_path / "recordings", ANN)))
    assert_fails(ask("forget", HIS), 2, "RECORDINGS_DIR")
    assert listed() == [ANN]


def test_what_waits_for_a_database_that_was_never_made_is_forgotten_as_well(address: Address) -> None:
    left_behind(address, entry(BOB))
    assert ask("forget", HIS).stdout == "1 call with …0001 deleted\n"
    assert HIS not in "".join(path.read_text() for path in address.spool_folder.iterdir())


def test_a_call_that_is_on_has_to_be_forgotten_later(address: Address) -> None:
    fill(address, entry(ANN, ended=False, at=datetime.now(UTC)))
    result = ask("forget", HIS)
    assert (result.exit_code, result.stdout) == (1, "0 calls with …0001 deleted\n")
    assert "1 call not over yet" in result.stderr


def test_what_a_running_service_writes_just_then_has_to_be_forgotten_later(address: Address) -> None:
    fill(address)
    service = open_spool(address.spool_folder)
    service.append(entry(ANN).as_line())
    result = ask("forget", HIS)
    service.close()
    assert result.exit_code == 1
    assert "could not be written" in result.stderr
    assert "Traceback" not in result.stderr
    assert ask("forget", HIS).stdout == "1 call with …0001 deleted\n"


@pytest.mark.parametrize(
    ("logged", "asked"),
    [
        ("sip:alice@example.com;user=phone", "sip:alice@example.com;user=phone"),
        ("sip:Alice@example.com", "sip:alice@EXAMPLE.com"),
        ("whatsapp:+15550100001", HIS),
        (HIS, "whatsapp:+15550100001"),
        ("sip:+15550100001@gw.example.com;user=phone", HIS),
        (HIS, "+1 (555) 010-0001"),
        ("\u202a+1 555 0100001\u202c", HIS),
        ("Restricted", "anonymous"),
        ("", "anonymous"),
        ("somebody", "somebody"),
    ],
)
def test_a_person_is_forgotten_by_what_the_log_has_and_in_every_way_of_writing_it(
    address: Address, logged: str, asked: str
) -> None:
    fill(address, entry(ANN, caller=logged), entry(EVE, caller="+15550100009"))
    left_behind(address, outbound(entry(BOB, caller=logged)))
    result = ask("forget", asked)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("2 calls with ")
    assert listed() == [EVE]
    assert BOB not in "".join(path.read_text() for path in address.spool_folder.iterdir())


def test_one_chat_is_forgotten_by_its_id_and_all_by_their_name(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDINGS_DIR", str(tmp_path / "recordings"))
    chats = [CallSid(f"chat-{digit * 32}") for digit in "abc"]
    for chat in chats:
        record(tmp_path / "recordings", chat)
    fill(address, *(entry(chat, caller="client:chat") for chat in chats), entry(EVE))
    assert ask("forget", chats[0]).stdout == "1 call with …aaaa deleted, with 1 recording\n"
    assert set(listed()) == {*chats[1:], EVE}
    assert ask("forget", "client:chat").stdout == "2 calls with client:chat deleted, with 2 recordings\n"
    assert listed() == [EVE]
    assert not [*(tmp_path / "recordings").iterdir()]


@pytest.mark.parametrize("party", ["Ann", " ", "+1555", "+15550100001000000"])
def test_what_is_no_address_and_in_no_call_is_reported_in_one_line(address: Address, party: str) -> None:
    fill(address, entry(ANN))
    assert_fails(ask("forget", party), 2, "+15551234567")
    assert listed() == [ANN]
