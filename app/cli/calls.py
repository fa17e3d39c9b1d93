"""`moshi-bridge calls`, `calls show` and `forget`: questions to the call log, answered on the terminal."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from app.cli.call_tables import call_page, calls_table, found_table
from app.cli.nodes import show_nodes
from app.cli.options import EXIT_FAILED, EXIT_SETTINGS, fail
from app.config import Settings, SettingsError
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.database import CallNotFound, Database
from app.telemetry.call_log.entry import CallEntry
from app.telemetry.call_log.search import FoundTurn
from app.telemetry.call_log.spool import deliver_dead_spools, records_wait
from app.telemetry.call_log.transactions import CallLogError, in_short
from app.telemetry.recording.store import RecordingStore
from app.twilio.events import CallSid
from app.twilio.parties import AddressKind, cleaned, kind_of, mask_number, name_of

Row = TypeVar("Row", CallEntry, FoundTurn)
ADDRESSES = "write +15551234567, sip:user@host, client:name, anonymous or chat-…, as the call log has it"


def list_calls(settings: Settings, limit: int, as_json: bool) -> int:
    if not as_json:
        show_nodes(settings)
    return _show(settings, lambda database: database.recent(limit), as_json, calls_table, "no calls yet")


def show_call(settings: Settings, sid: str, as_json: bool) -> int:
    """Show one call, whose SID is `sid`, begins or ends so; return the exit status."""

    def show(database: Database) -> None:
        call = database.find(sid)
        if as_json:
            print(json.dumps(call.as_json(whole=True), indent=2, ensure_ascii=False))
        else:
            Console(highlight=False).print(call_page(call))

    return _ask(settings, show)


def search_calls(settings: Settings, query: str, limit: int, as_json: bool) -> int:
    """Show the last turns in which all words of a query were said; return the exit status."""
    return _show(settings, lambda database: database.search(query, limit), as_json, found_table, "nothing found")


def _show(
    settings: Settings,
    read: Callable[[Database], list[Row]],
    as_json: bool,
    table: Callable[[Sequence[Row]], Table],
    nothing: str,
) -> int:
    def show(database: Database) -> None:
        found = read(database)
        if as_json:
            print(json.dumps([one.as_json() for one in found], indent=2, ensure_ascii=False))
        else:
            Console().print(table(found) if found else nothing)

    return _ask(settings, show)


def forget_caller(settings: Settings, party: str) -> int:
    """Delete the calls with one person; return the exit status, which is 1 if some have to stay for now."""
    left: list[str] = []

    def forget(database: Database) -> None:
        left.extend(_forget(database, _address(settings), party, settings))

    status = _ask(settings, forget)
    for reason in left:
        status = fail(f"{reason}: forget {mask_number(party)} once more later", EXIT_FAILED)
    return status


def _forget(database: Database, address: Address, party: str, settings: Settings) -> Iterator[str]:
    """Delete what there is of a person, also what has not reached the database yet; yield what could not go."""
    if not cleaned(party):
        raise SettingsError(f"whose calls? {ADDRESSES}")
    name = name_of(party)
    deliver_dead_spools(database, address.spool_folder)
    if records_wait(address.spool_folder):  # of a service that runs, or another user's
        yield f"records that wait in {address.spool_folder} could not be written"
    if not _delete_token_logs(database, name, settings):
        yield "token logs could not be deleted, NATS was not reached: nothing was deleted"
        return
    deleted = _delete_recordings(database, name, settings)
    gone, on = database.forget(name)
    if not (gone or on) and kind_of(name) is AddressKind.OTHER:
        raise SettingsError(f"{party}: no such calls; {ADDRESSES}")
    recordings = f", with {_counted(deleted, 'recording')}" if deleted else ""
    print(f"{_counted(gone, 'call')} with {mask_number(party)} deleted{recordings}")
    if on:
        yield f"{_counted(on, 'call')} not over yet"


def _delete_token_logs(database: Database, name: str, settings: Settings) -> bool:
    """Delete what nodes keep of calls for each other, which decodes to both voices; False if that fails."""
    call_sids, _ = database.recordings_with(name)
    if not settings.cluster.nats_url or not call_sids:
        return True
    from app.cluster.survey import purge_logs

    return asyncio.run(purge_logs(settings, map(CallSid, call_sids)))


def _delete_recordings(database: Database, name: str, settings: Settings) -> int:
    """Delete them, before nobody knows any more whose they are; return how many that were."""
    call_sids, recordings = database.recordings_with(name)
    if settings.recording.folder:
        store = RecordingStore(settings.recording.folder)
        return store.delete(recordings.union(store.of_calls(call_sids)))
    if recordings:
        found = f"there are {len(recordings)} recordings"
        raise SettingsError(f"RECORDINGS_DIR is not set, but {found}: say where, then forget")
    return 0


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _address(settings: Settings) -> Address:
    address = find_address(settings)
    if address is None:
        raise SettingsError("DATABASE_URL is off: no calls are kept")
    return address


def _ask(settings: Settings, question: Callable[[Database], None]) -> int:
    try:
        address = _address(settings)
        if address.file and not address.file.exists() and not any(address.spool_folder.glob("*")):
            print(f"no calls yet: there is no {address}")
            return 0
        database = Database(address)
        database.migrate()
        question(database)
    except SettingsError as error:
        return fail(error, EXIT_SETTINGS)
    except CallNotFound as error:
        return fail(error, EXIT_FAILED)
    except CallLogError as error:
        return fail(f"{address} does not answer: {error}", EXIT_FAILED)
    except OSError as error:
        return fail(in_short(error), EXIT_FAILED)
    return 0
