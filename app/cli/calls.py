"""`moshi-bridge calls`, `calls show` and `forget`: questions to the call log, answered on the terminal."""

import json
import sys
from collections.abc import Callable

from rich.console import Console

from app.cli.call_tables import call_page, calls_table
from app.config import Settings, SettingsError
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.database import CallNotFound, Database
from app.telemetry.call_log.spool import deliver_dead_spools, records_wait
from app.telemetry.call_log.transactions import CallLogError, in_short
from app.telemetry.recording.store import RecordingStore
from app.twilio.parties import AddressKind, cleaned, kind_of, mask_number, name_of

EXIT_NOT_ANSWERED = 1
EXIT_SETTINGS = 2
ADDRESSES = "write +15551234567, sip:user@host, client:name or anonymous, as the call log has it"


def list_calls(settings: Settings, limit: int, as_json: bool) -> int:
    """Show the last calls, the newest first; return the exit status."""

    def show(database: Database) -> None:
        calls = database.recent(limit)
        if as_json:
            print(json.dumps([call.as_json() for call in calls], indent=2))
        elif calls:
            Console().print(calls_table(calls))
        else:
            print("no calls yet")

    return _ask(settings, show)


def show_call(settings: Settings, sid: str, as_json: bool) -> int:
    """Show one call, whose SID is `sid`, begins or ends so; return the exit status."""

    def show(database: Database) -> None:
        call = database.find(sid)
        if as_json:
            print(json.dumps(call.as_json(whole=True), indent=2, ensure_ascii=False))
        else:
            Console(highlight=False).print(call_page(call))

    return _ask(settings, show)


def forget_caller(settings: Settings, party: str) -> int:
    """Delete the calls with one person; return the exit status, which is 1 if some have to stay for now."""
    left: list[str] = []

    def forget(database: Database) -> None:
        left.extend(_forget(database, _address(settings), party, settings))

    return _ask(settings, forget) or int(bool(left))


def _forget(database: Database, address: Address, party: str, settings: Settings) -> list[str]:
    """Delete what there is of a person, also what has not reached the database yet; return what could not go."""
    if not cleaned(party):
        raise SettingsError(f"whose calls? {ADDRESSES}")
    name, shown = name_of(party), mask_number(party)
    deliver_dead_spools(database, address.spool_folder)
    left: list[str] = []
    if records_wait(address.spool_folder):  # of a service that runs, or another user's
        left.append(f"records that wait in {address.spool_folder} could not be written")
    deleted = _delete_recordings(database, name, settings)
    gone, on = database.forget(name)
    if not (gone or on) and kind_of(name) is AddressKind.OTHER:
        raise SettingsError(f"{party}: no such calls; {ADDRESSES}")
    print(f"{_calls(gone)} with {shown} deleted{deleted}")
    if on:
        left.append(f"{_calls(on)} not over yet")
    for reason in left:
        print(f"moshi-bridge: {reason}: forget {shown} once more later", file=sys.stderr)
    return left


def _delete_recordings(database: Database, name: str, settings: Settings) -> str:
    """Delete them, before nobody knows any more whose they are; return how many that were, "" for none."""
    call_sids, recordings = database.recordings_with(name)
    if settings.recording.folder is None and recordings:
        raise SettingsError(
            f"RECORDINGS_DIR is not set, but there are {len(recordings)} recordings: say where, then forget"
        )
    if settings.recording.folder is None:
        return ""
    store = RecordingStore(settings.recording.folder)
    deleted = store.delete(recordings.union(store.of_calls(call_sids)))
    return f", with {deleted} recording{'' if deleted == 1 else 's'}" if deleted else ""


def _calls(count: int) -> str:
    return f"{count} call{'' if count == 1 else 's'}"


def _address(settings: Settings) -> Address:
    address = find_address(settings)
    if address is None:
        raise SettingsError("DATABASE_URL is off: no calls are kept")
    return address


def _ask(settings: Settings, question: Callable[[Database], None]) -> int:
    """Ask the database; return the exit status. Failures are one line."""
    try:
        address = _address(settings)
        if address.file and not address.file.exists() and not any(address.spool_folder.glob("*")):
            print(f"no calls yet: there is no {address}")
            return 0
        database = Database(address)
        database.migrate()
        question(database)
    except SettingsError as error:
        return _refuse(str(error), EXIT_SETTINGS)
    except CallNotFound as error:
        return _refuse(str(error), EXIT_NOT_ANSWERED)
    except CallLogError as error:
        return _refuse(f"{address} does not answer: {error}", EXIT_NOT_ANSWERED)
    except OSError as error:
        return _refuse(in_short(error), EXIT_NOT_ANSWERED)
    return 0


def _refuse(why: str, status: int) -> int:
    print(f"moshi-bridge: {why}", file=sys.stderr)
    return status
