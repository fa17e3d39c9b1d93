"""`moshi-bridge calls`, `calls show` and `forget`: questions to the call log, answered on the terminal."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence

import phonenumbers
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from app.calllog.address import Address, find_address
from app.calllog.database import CallNotFound, Database, in_short
from app.calllog.delivery import deliver_orphan
from app.calllog.spool import Spool, forget_rejected, is_waiting
from app.calllog.tables import call_json, call_page, calls_table, whole_call_json
from app.config import Settings, SettingsError
from app.log import mask_number
from app.recording.shelf import Shelf

EXIT_NOT_ANSWERED = 1
EXIT_SETTINGS = 2


def list_calls(settings: Settings, limit: int, as_json: bool) -> int:
    """Show the last calls, the newest first; return the exit status."""

    async def show(database: Database) -> None:
        calls = await database.recent(limit)
        if as_json:
            print(json.dumps([call_json(call) for call in calls], indent=2))
        elif calls:
            Console().print(calls_table(calls))
        else:
            print("no calls yet")

    return _ask(settings, show)


def show_call(settings: Settings, sid: str, as_json: bool) -> int:
    """Show one call, whose SID is `sid`, begins or ends so; return the exit status."""

    async def show(database: Database) -> None:
        call = await database.find(sid)
        if as_json:
            print(json.dumps(whole_call_json(call), indent=2, ensure_ascii=False))
        else:
            Console(highlight=False).print(call_page(call))

    return _ask(settings, show)


def forget_caller(settings: Settings, number: str) -> int:
    """Delete the calls with one person; return the exit status, which is 1 if some have to stay for now."""
    try:
        address, e164 = _address(settings), _e164(number)
    except SettingsError as error:
        return _refuse(str(error), EXIT_SETTINGS)
    left: list[str] = []
    shelf = Shelf(settings.recordings) if settings.recordings else None

    async def forget(database: Database) -> None:
        left.extend(await _forget(database, address, e164, shelf))

    return _ask(settings, forget) or int(bool(left))


async def _forget(database: Database, address: Address, number: str, shelf: Shelf | None) -> list[str]:
    """Delete what there is of a person, also what has not reached the database yet; return what could not go."""
    for orphan in Spool.adopt(address.spool_folder):
        await deliver_orphan(database, orphan)
    forget_rejected(address.spool_folder, number)
    deleted = _delete_recordings(await database.recordings_with(number), shelf)
    gone, on = await database.forget(number)
    print(f"{_calls(gone)} with {mask_number(number)} deleted{deleted}")
    left = [f"{_calls(on)} not over yet"] if on else []
    if is_waiting(address.spool_folder, number):
        left.append("a running service has yet to write some")
    for reason in left:
        print(f"moshi-bridge: {reason}: forget {mask_number(number)} once more later", file=sys.stderr)
    return left


def _delete_recordings(names: Sequence[str], shelf: Shelf | None) -> str:
    """Delete them, before nobody knows any more whose they are; return how many that were, "" for none."""
    if not names:
        return ""
    if shelf is None:
        raise SettingsError(
            f"RECORDINGS_DIR is not set, but {_calls(len(names))} were recorded: say where, then forget"
        )
    deleted = shelf.delete(names)
    return f", with {deleted} recording{'' if deleted == 1 else 's'}"


def _calls(count: int) -> str:
    return f"{count} call{'' if count == 1 else 's'}"


def _e164(number: str) -> str:
    """Return a number as the log has it. Raises SettingsError."""
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException as error:
        raise SettingsError(f"{number}: write the number with + and country code, +15551234567") from error
    if not phonenumbers.is_possible_number(parsed):
        raise SettingsError(f"{number}: no phone number is like this; write it with + and country code, +15551234567")
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def _address(settings: Settings) -> Address:
    address = find_address(settings)
    if address is None:
        raise SettingsError("DATABASE_URL is off: no calls are kept")
    return address


def _ask(settings: Settings, question: Callable[[Database], Awaitable[None]]) -> int:
    """Ask the database; return the exit status. What is wrong is told in one line."""
    try:
        address = _address(settings)
        if address.file and not address.file.exists() and not any(address.spool_folder.glob("*")):
            print(f"no calls yet: there is no {address}")
            return 0
        asyncio.run(_asked(Database(address), question))
    except SettingsError as error:
        return _refuse(str(error), EXIT_SETTINGS)
    except CallNotFound as error:
        return _refuse(str(error), EXIT_NOT_ANSWERED)
    except (SQLAlchemyError, OSError) as error:
        return _refuse(f"{address} does not answer: {in_short(error)}", EXIT_NOT_ANSWERED)
    return 0


async def _asked(database: Database, question: Callable[[Database], Awaitable[None]]) -> None:
    try:
        await database.migrate()
        await question(database)
    finally:
        await database.close()


def _refuse(why: str, status: int) -> int:
    print(f"moshi-bridge: {why}", file=sys.stderr)
    return status
