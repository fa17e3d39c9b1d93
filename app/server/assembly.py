"""The parts of a service as its settings ask for them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.calls.manager import CallManager
from app.calls.queue import CallRedirector
from app.calls.router import CallRouter
from app.calls.speaker import Speaker, SpeakerMessage
from app.config import EngineKind, RecordCalls, Settings, SettingsError
from app.server.remote.pipeline import RemotePipeline
from app.telemetry.call_log.address import find_address
from app.telemetry.call_log.from_record import ServiceIdentity
from app.telemetry.call_log.writer import CallLogWriter
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.writer import RecordingWriter
from app.telemetry.webhooks.actions import Action
from app.telemetry.webhooks.sender import WebhookSender
from app.twilio.events import CallSid
from workers.logging import hiding
from workers.messages import Progress, PromptMessage, Stage, TranscriptMessage, WorkerConfig
from workers.processors import usable_processors
from workers.supervisor import Supervisor

if TYPE_CHECKING:
    from app.cluster.node import ClusterNode
    from app.telemetry.traces import CallTraces


def open_speaker(
    settings: Settings,
    on_message: Callable[[SpeakerMessage], None],
    on_lost: Callable[[str], None],
    on_progress: Callable[[Progress], None],
    on_prompt: Callable[[PromptMessage], None],
    on_transcript: Callable[[TranscriptMessage], None],
) -> Speaker:
    """Return what speaks in the calls. Raises SettingsError."""
    if settings.model.engine is EngineKind.REMOTE:
        return RemotePipeline(settings, on_message, on_prompt)
    config = worker_config(settings)
    return Supervisor(config, on_message, on_lost, on_progress, on_prompt=on_prompt, on_transcript=on_transcript)


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
    names = {EngineKind.MLX: settings.model.checkpoint, EngineKind.LOOPBACK: "line test"}
    return names.get(settings.model.engine, "Moshi servers")


def open_node(
    settings: Settings,
    boot: str,
    manager: CallManager,
    router: CallRouter,
    redirector: CallRedirector | None,
    checkpoint: Callable[[], str],
) -> "ClusterNode | None":
    """Return this node, None without NATS_URL; nats-py is imported only if needed. Raises SettingsError."""
    if not settings.cluster.nats_url:
        return None
    try:
        from app.cluster.node import ClusterNode
    except ModuleNotFoundError as error:
        raise SettingsError(f"NATS_URL needs the package {error.name}: pip install 'moshi-bridge[cluster]'") from error

    return ClusterNode(settings, boot, manager, router, redirector, checkpoint)
