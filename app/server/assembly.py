"""The parts of a service as its settings ask for them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.config import EngineKind, RecordCalls, Settings
from app.telemetry.call_log.address import find_address
from app.telemetry.call_log.from_record import ServiceIdentity
from app.telemetry.call_log.writer import CallLogWriter
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.writer import RecordingWriter
from app.telemetry.webhooks.actions import Action
from app.telemetry.webhooks.sender import WebhookSender
from app.twilio.events import CallSid
from workers.logging import hiding
from workers.messages import Stage, WorkerConfig
from workers.processors import usable_processors

if TYPE_CHECKING:
    from app.telemetry.traces import CallTraces


def worker_config(settings: Settings) -> WorkerConfig:
    """Return the configuration of all workers; the supervisor fills in the stage."""
    return WorkerConfig(
        stage=Stage.STEP,
        slots=settings.calls.slots,
        context=settings.model.context,
        engine=settings.model.engine,
        codec=settings.model.codec,
        checkpoint=settings.model.checkpoint,
        quantize=settings.model.quantize_bits,
        lora=settings.model.lora,
        transcribe=settings.transcribe,
        cache=settings.model.cache,
        greeting_frames=settings.prepared_steps,
        max_call_s=settings.calls.max_seconds,
        threads=max(1, usable_processors() // 3),
        loopback_step_s=settings.model.loopback_step_ms / 1000,
        sampling=settings.sampling.given,
        log_format=settings.logging.format.resolve(),
    )


def open_call_log(settings: Settings) -> CallLogWriter | None:
    """Return the call log's writer, None if DATABASE_URL is off. Raises SettingsError."""
    address = find_address(settings)
    arguments = settings.twilio.account_sid, model_name(settings), settings.call_log.days
    return CallLogWriter(address, *arguments) if address else None


def open_recordings(settings: Settings) -> RecordingWriter | None:
    folder, every_call = settings.recording.folder, settings.recording.calls is RecordCalls.ALL
    arguments = model_name(settings), every_call, settings.call_log.days
    return RecordingWriter(RecordingStore(folder), *arguments) if folder else None


def open_traces(settings: Settings) -> "CallTraces | None":
    """Return the exporter of spans, None if TRACES_ENDPOINT is empty; OpenTelemetry is imported only if needed."""
    if not settings.traces.endpoint:
        return None
    from app.telemetry.traces import CallTraces

    service = ServiceIdentity("", settings.twilio.account_sid, model_name(settings))
    return CallTraces(settings.traces.endpoint, settings.traces.header_fields, service, hiding(settings.secrets))


def open_webhooks(settings: Settings, act: Callable[[CallSid, Action], None]) -> WebhookSender | None:
    """Return what posts events to WEBHOOK_URL, None if that is empty; `act` carries out what the answers ask for."""
    url = settings.webhook.url
    return WebhookSender(url, settings.webhook.secret, act) if url else None


def model_name(settings: Settings) -> str:
    return settings.model.checkpoint if settings.model.engine is EngineKind.MLX else "line test"
