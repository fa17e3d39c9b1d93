"""The doctor's checks of call log and recordings."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from app.cli.doctor.finding import Finding, good, note, problem
from app.config import Settings, SettingsError
from app.telemetry.call_log.address import find_address
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.spool import open_spool
from app.telemetry.call_log.transactions import CallLogError
from app.telemetry.recording.store import RecordingStore

HOUR_BYTES = 60_000_000
"""What an hour of a call takes while it is recorded: two sides of mu-law and the token log."""
FEW_HOURS = 24


def examine_storage(settings: Settings) -> Iterator[Finding]:
    yield _call_log(settings)
    if settings.recording.folder:
        yield _recordings(settings.recording.folder)


def _call_log(settings: Settings) -> Finding:
    try:
        address = find_address(settings)
        if address is None:
            return note("DATABASE_URL", "off: no calls are kept")
        open_spool(address.spool_folder).close()
        if not address.file or address.file.exists():
            Database(address).migrate()  # as the service does: not everybody may make tables
    except SettingsError as error:
        return problem("DATABASE_URL", str(error))
    except CallLogError as error:
        advice = "records wait on the disk until it answers; `moshi-bridge calls` says the same"
        return problem("DATABASE_URL", f"{address} does not answer: {error}", advice)
    days = f"for {settings.call_log.days} days" if settings.call_log.days else "for ever"
    return good("DATABASE_URL", f"calls are kept in {address} {days}")


def _recordings(folder: Path) -> Finding:
    try:
        RecordingStore(folder).make()
        hours = shutil.disk_usage(folder).free // HOUR_BYTES
    except (SettingsError, OSError) as error:
        return problem("RECORDINGS_DIR", str(error))
    found = f"{folder}: room for {hours:,} hours of calls"
    if hours < FEW_HOURS:
        return note("RECORDINGS_DIR", found, "make room, or set CALL_LOG_DAYS lower")
    return good("RECORDINGS_DIR", found)
