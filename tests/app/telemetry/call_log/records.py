"""Records of calls, for the tests of the call log."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from app.calls.end_reason import EndReason
from app.calls.record import CallRecord
from app.calls.transcript import Side, Word
from app.config import read_settings
from app.telemetry.call_log.address import Address, find_address
from app.telemetry.call_log.entry import CallEntry, StreamEntry
from app.telemetry.call_log.from_record import ServiceIdentity, make_entry
from app.twilio.events import CallSid
from workers.messages import Epoch, Frame, Slot, Span, Stage

ANN, BOB, EVE = CallSid("CA" + "a" * 32), CallSid("CA" + "b" * 32), CallSid("CA" + "e" * 32)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SERVICE = ServiceIdentity("run-1", "AC1", "synthetic:script")
ZERO = NOON - timedelta(seconds=1_000)
"""When the clock of these records was 0."""


def call_record(call_sid: CallSid = ANN, caller: str = "+15550100001", ended: bool = True) -> CallRecord:
    """A call whose slot was reserved at 1,000 s; it connected 1 s later and ended after 31 s."""
    record = CallRecord(call_sid, 1_000.0, caller=caller, called="+15550100000", direction="inbound")
    if ended:
        record.connected_s, record.started_s, record.first_sound_s = 1_001.0, 1_001.5, 1_001.75
        record.on_frame(moshi_frame(), 1_002.0)
        record.on_frame(moshi_frame(), 1_003.5)
        record.words += [Word(Side.MOSHI, "Hello.", 2.0, 2.5), Word(Side.CALLER, "Hi", 3.5, 3.75)]
        record.ended_s, record.end, record.detail = 1_031.0, EndReason.CALLER_HUNG_UP, "bye"
    return record


def moshi_frame(text: str = "", took_s: float = 0.05) -> Frame:
    spans = (Span(Stage.ENCODE, 0.0, 0.01), Span(Stage.STEP, 0.01, 0.04), Span(Stage.DECODE, 0.04, took_s))
    return Frame(Slot(0), Epoch(1), 0, np.zeros(1_920, np.float32), text, spans=spans)


def entry(call_sid: CallSid = ANN, caller: str = "+15550100001", ended: bool = True, at: datetime = NOON) -> CallEntry:
    """The entry of such a call, whose slot was reserved `at`."""
    return make_entry(call_record(call_sid, caller, ended), Slot(2), SERVICE, at - timedelta(seconds=1_000))


def outbound(made: CallEntry) -> CallEntry:
    """The same call the other way round."""
    swapped = replace(made, direction="outbound-api", caller=made.called, called=made.caller)
    return replace(swapped, caller_masked=made.called_masked, called_masked=made.caller_masked)


def stream(number: int = 1, at: datetime = NOON, recording: str = "", ended: bool = True) -> StreamEntry:
    """One stream, which took nine seconds if it has ended."""
    end, reason = (at + timedelta(seconds=9), "caller hung up") if ended else (None, None)
    return StreamEntry(number, at, at, at, end, reason, "", recording, "")


def address_of(url: str, folder: Path) -> Address:
    """Return what a DATABASE_URL means; records for a server wait in `folder`."""
    address = find_address(read_settings(database_url=url, cache_dir=folder))
    assert address
    return address
