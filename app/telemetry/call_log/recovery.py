"""Writes what waits in spools into the database, this run's and those of dead ones."""

import logging
from pathlib import Path

from app.logging import CallLog
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.entry import read_entry
from app.telemetry.call_log.spool import Spool, dead_spools
from app.telemetry.call_log.transactions import RecordRefused
from app.twilio.events import CallSid

log = logging.getLogger(__name__)


def deliver_dead_spools(database: Database, folder: Path) -> int:
    """Write what dead runs of the service left, and end the calls that they left open; return how many are lost."""
    lost = 0
    for spool in dead_spools(folder):
        alive_at = spool.alive_at
        lost += deliver_spool(database, spool)
        if closed := database.close_killed(spool.run, alive_at):
            log.warning("the service was killed with %d calls on; their records are closed", closed)
    return lost


def deliver_spool(database: Database, spool: Spool) -> int:
    """Write what waits in a spool, the oldest first, and clear it; return how many records are lost."""
    written = lost = 0
    for line in spool.lines():
        try:
            entry = read_entry(line)
        except ValueError as error:
            log.error("the record of a call is lost: half a line waited: %s", error)
            lost += 1
            continue
        try:
            database.write(entry)
            written += 1
        except RecordRefused as error:
            log_lost(CallSid(entry.call_sid), entry.end_reason, error)
            lost += 1
    spool.clear()
    if written:
        log.info("%d records of calls that waited are written", written)
    return lost


def log_lost(call_sid: CallSid, end: str | None, reason: object) -> None:
    """Log that the record of a call is lost."""
    CallLog(log, call_sid).error("the record of this call is lost (%s): %s", end or "it was on", reason)
