"""`moshi-bridge calls`, `calls show` and `forget`: questions to the call log, answered on the terminal."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import typer
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


def list_calls(settings: Settings, limit: int, as_json: bool) -> None:
    if not as_json:
        show_nodes(settings)
    with _call_log(settings) as (database, _):
        _show(database.recent(limit), as_json, calls_table, "no calls yet")


def show_call(settings: Settings, sid: str, as_json: bool) -> None:
    """Show one call, whose SID is `sid`, begins or ends so."""
    with _call_log(settings) as (database, _):
        call = database.find(sid)
    if as_json:
        print(json.dumps(call.as_json(whole=True), indent=2, ensure_ascii=False))
    else:
        Console(highlight=False).print(call_page(call))


def search_calls(settings: Settings, query: str, limit: int, as_json: bool) -> None:
    """Show the last turns in which all words of a query were said."""
    with _call_log(settings) as (database, _):
        _show(database.search(query, limit), as_json, found_table, "nothing found")


def _show(found: list[Row], as_json: bool, table: Callable[[Sequence[Row]], Table], nothing: str) -> None:
    if as_json:
        print(json.dumps([one.as_json() for one in found], indent=2, ensure_ascii=False))
    else:
        Console().print(table(found) if found else nothing)


def forget_caller(settings: Settings, party: str) -> None:
    """Delete the calls with one person; exit with 1 if some have to stay for now."""
    with _call_log(settings) as (database, address):
        left = list(_forget(database, address, party, settings))
    for reason in left:
        fail(f"{reason}: forget {mask_number(party)} once more later", EXIT_FAILED)
    if left:
        raise typer.Exit(EXIT_FAILED)


def _forget(database: Database, address: Address, party: str, settings: Settings) -> Iterator[str]:
    """Delete what there is of a person, also what has not reached the database yet; yield what could not go."""
    if not cleaned(party):
        raise SettingsError(f"whose calls? {ADDRESSES}")
    name = name_of(party)
    deliver_dead_spools(database, address.spool_folder)
    if records_wait(address.spool_folder):  # of a service that runs, or another user's
        yield f"records that wait in {address.spool_folder} could not be written"
    if not _delete_token_logs(database, name, settings):
        yield "token logs could not be deleted, NATS was not reached or refused: nothing was deleted"
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


@contextmanager
def _call_log(settings: Settings) -> Iterator[tuple[Database, Address]]:
    """Open the call log; end the command if there is none, or with what fails in the block as one line."""
    try:
        address = find_address(settings)
        if address is None:
            raise SettingsError("DATABASE_URL is off: no calls are kept")
        if address.file and not address.file.exists() and not any(address.spool_folder.glob("*")):
            print(f"no calls yet: there is no {address}")
            raise typer.Exit
        database = Database(address)
        database.migrate()
        yield database, address
    except SettingsError as error:
        raise typer.Exit(fail(error, EXIT_SETTINGS)) from error
    except CallNotFound as error:
        raise typer.Exit(fail(error, EXIT_FAILED)) from error
    except CallLogError as error:
        raise typer.Exit(fail(f"{address} does not answer: {error}", EXIT_FAILED)) from error
    except OSError as error:
        raise typer.Exit(fail(in_short(error), EXIT_FAILED)) from error
