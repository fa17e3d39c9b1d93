"""The parts of a service as its settings ask for them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.calls.manager import CallManager
from app.calls.queue import CallRedirector
from app.calls.router import CallRouter
from app.calls.speech_backend import BackendMessage, SpeechBackend
from app.config import EngineKind, Settings, SettingsError
from app.server.remote.pipeline import RemotePipeline
from workers.control_messages import Progress, WorkerConfig
from workers.messages import PromptMessage, Stage, TranscriptMessage
from workers.processors import usable_processors
from workers.supervisor import Supervisor

if TYPE_CHECKING:
    from app.cluster.node import ClusterNode


def open_backend(
    settings: Settings,
    on_message: Callable[[BackendMessage], None],
    on_lost: Callable[[str], None],
    on_progress: Callable[[Progress], None],
    on_prompt: Callable[[PromptMessage], None],
    on_transcript: Callable[[TranscriptMessage], None],
) -> SpeechBackend:
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
