"""What the service tells of its calls, and where to: recordings, call log, traces, webhooks."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from app.calls.active_call import ActiveCall, ObserverFactory
from app.calls.observer import CallObserver, RecordObserver
from app.calls.record import CallRecord
from app.config import RecordCalls, Settings
from app.server.assembly import model_name
from app.telemetry.call_log.address import find_address
from app.telemetry.call_log.from_record import ServiceIdentity
from app.telemetry.call_log.writer import CallLogWriter
from app.telemetry.recording.recorder import record_nothing
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.writer import RecordingWriter
from app.telemetry.webhooks.actions import Action
from app.telemetry.webhooks.observer import WebhookObserver
from app.telemetry.webhooks.sender import WebhookSender
from app.twilio.events import CallSid
from workers.logging import hiding
from workers.messages import Slot

if TYPE_CHECKING:
    from app.telemetry.traces import CallTraces


class Sinks:
    """Those that the settings ask for, None for the others; `act` carries out what answers of webhooks ask for.

    `drop_forgotten` drops forgotten calls that are over from memory, and returns those. Raises SettingsError.
    """

    def __init__(
        self,
        settings: Settings,
        act: Callable[[CallSid, Action], None],
        drop_forgotten: Callable[[set[str]], list[CallSid]],
    ) -> None:
        self._log_digits, self._drop_forgotten = settings.logging.digits, drop_forgotten
        self._forgotten: set[str] = set()
        address, folder = find_address(settings), settings.recording.folder
        account_sid, model, days = settings.twilio.account_sid, model_name(settings), settings.call_log.days
        every_call = settings.recording.calls is RecordCalls.ALL
        self.call_log = CallLogWriter(address, account_sid, model, days) if address else None
        self.recordings = RecordingWriter(RecordingStore(folder), model, every_call, days) if folder else None
        self.traces = _open_traces(settings, ServiceIdentity("", account_sid, model))
        self.webhooks = (
            WebhookSender(settings.webhook.url, settings.webhook.secret, act) if settings.webhook.url else None
        )
        if self.recordings and self.call_log:
            self.recordings.on_late_fault = self.call_log.add

    def start(self, stack: AsyncExitStack) -> None:
        """Start what has threads of its own; the end of `stack` stops it."""
        if self.call_log:
            call_soon = asyncio.get_running_loop().call_soon_threadsafe
            self.call_log.on_forgotten = lambda call_sids: call_soon(self._on_forgotten, call_sids)
        for sink in (self.call_log, self.traces, self.recordings):
            if sink:
                sink.start()
                stack.push_async_callback(sink.stop)

    def observers(self) -> Iterator[ObserverFactory]:
        """Yield what watches calls; the recorder first, since the records of the others name its recording."""
        yield self._record
        for sink in (self.call_log, self.traces):
            if sink:
                yield partial(_observe_record, sink.add, sink is self.call_log)
        if self.webhooks:
            yield partial(_observe_for_webhooks, self.webhooks, self._log_digits)

    def _on_forgotten(self, call_sids: set[str]) -> None:
        """Drop what is in memory of these calls; delete the recordings of those that are new, or that came back."""
        gone = (call_sids - self._forgotten).union(self._drop_forgotten(call_sids))
        self._forgotten = call_sids
        if gone and self.recordings:
            self.recordings.delete(gone)

    def _record(self, call: ActiveCall) -> CallObserver | None:
        if self.recordings:
            return self.recordings.record(call.session, call.request.record, call.reservation.slot)
        record_nothing(call.session, call.request.record)
        return None


def _observe_record(add: Callable[[CallRecord, Slot], None], amended: bool, call: ActiveCall) -> RecordObserver:
    return RecordObserver(call.session, call.reservation.slot, add, amended=amended)


def _observe_for_webhooks(webhooks: WebhookSender, digits: bool, call: ActiveCall) -> WebhookObserver:
    return WebhookObserver(call.session, webhooks.add, digits=digits)


def _open_traces(settings: Settings, service: ServiceIdentity) -> "CallTraces | None":
    """Return the exporter of spans; OpenTelemetry is imported only if needed."""
    if not settings.traces.endpoint:
        return None
    from app.telemetry.traces import CallTraces

    return CallTraces(settings.traces.endpoint, settings.traces.header_fields, service, hiding(settings.secrets))
