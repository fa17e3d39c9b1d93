"""Runs the service: the workers beneath, the web server on top, until a signal or a worker's refusal."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI

from app.calls.drain import Drain
from app.calls.manager import CallManager, keep_in
from app.calls.queue import CallQueue, CallRedirector
from app.calls.router import CallRouter
from app.config import EngineKind, RecordCalls, Settings, SettingsError
from app.http.drain_routes import build_drain_router
from app.http.history import History, build_history_router
from app.http.live_routes import build_live_router
from app.http.metrics_routes import build_metrics_router
from app.http.operator_auth import OperatorAuth
from app.http.page.routes import build_page_router
from app.http.paths import TwilioPaths
from app.http.rate_limit import RateLimiter
from app.http.recording_routes import build_recording_router
from app.http.routes import build_router
from app.http.selftest import build_selftest_router
from app.http.wait_routes import build_wait_router
from app.http.webhooks import Webhooks
from app.server.background import BackgroundTasks, Run, cancel, endless
from app.server.listener import WebServer
from app.server.pipeline_self_test import PipelineLost, PipelineSelfTest, SelfTestFailed
from app.server.signals import SignalHandler
from app.telemetry.call_log.address import find_address
from app.telemetry.call_log.entry import ServiceIdentity
from app.telemetry.call_log.writer import CallLogWriter
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.live import LiveView
from app.telemetry.metrics.service import Sources
from app.telemetry.recording.recorder import record_nothing
from app.telemetry.recording.store import RecordingStore
from app.telemetry.recording.writer import RecordingWriter
from app.twilio.public_address import PublicAddress
from workers.gc_freeze import freeze_gc
from workers.lines import hiding
from workers.messages import PipelineMessage, Progress, Stage, WorkerConfig
from workers.processors import usable_processors
from workers.supervisor import Supervisor, WorkerRefused

if TYPE_CHECKING:
    from app.telemetry.traces import CallTraces

log = logging.getLogger(__name__)

TESTED_SLOTS = 4
SELF_TESTS = 3
"""How often the self-test is begun, before the service gives up."""
TOLD = (WorkerRefused, SelfTestFailed, SettingsError)
"""Why a service cannot run, in one line each, for whoever started it."""


def worker_config(settings: Settings) -> WorkerConfig:
    """Return what every worker is told; the supervisor fills in its stage."""
    return WorkerConfig(
        stage=Stage.STEP,
        slots=settings.slots,
        context=settings.context,
        engine=settings.engine,
        codec=settings.codec,
        checkpoint=settings.moshi_checkpoint,
        quantize=settings.quantize_bits,
        cache=settings.cache,
        greeting_frames=settings.greeting_steps,
        max_call_s=settings.max_call_seconds,
        threads=max(1, usable_processors() // 3),
        loopback_step_s=settings.loopback_step_ms / 1000,
        sampling=settings.sampling,
        log_format=settings.log_format.resolve(),
    )


def open_call_log(settings: Settings) -> CallLogWriter | None:
    """Return what keeps calls, None if DATABASE_URL is off. Raises SettingsError."""
    address = find_address(settings)
    account_sid, days = settings.twilio_account_sid, settings.call_log_days
    return CallLogWriter(address, account_sid, model_name(settings), days) if address else None


def open_recordings(settings: Settings) -> RecordingWriter | None:
    """Return what records calls, None if RECORDINGS_DIR is empty."""
    if settings.recordings is None:
        return None
    every_call = settings.record_calls is RecordCalls.ALL
    return RecordingWriter(
        RecordingStore(settings.recordings), model_name(settings), every_call, settings.call_log_days
    )


def open_traces(settings: Settings) -> "CallTraces | None":
    """Return what tells a collector of calls, None if TRACES_ENDPOINT is empty; OpenTelemetry is loaded only then."""
    if not settings.traces_endpoint:
        return None
    from app.telemetry.traces import CallTraces

    place = ServiceIdentity("", settings.twilio_account_sid, model_name(settings))
    return CallTraces(settings.traces_endpoint, settings.trace_headers, place, hiding(settings.secrets))


def model_name(settings: Settings) -> str:
    """Return what answers the calls, as the call log says it."""
    return settings.moshi_checkpoint if settings.engine is EngineKind.MLX else "line test"


class Service:
    """The web application, its manager and its workers; `redirector` redirects those who wait in line."""

    def __init__(
        self, settings: Settings, on_progress: Callable[[Progress], None], redirector: CallRedirector | None = None
    ) -> None:
        self.public = PublicAddress(settings)
        self.self_tested = asyncio.Event()
        """Set once the workers have shown that they can."""
        self.stopping = asyncio.Event()
        """Set once no more calls are taken, while the last ones end."""
        self._stopped = False
        self._server: WebServer | None = None
        self.supervisor = Supervisor(worker_config(settings), self._take_message, self._lose_pipeline, on_progress)
        self._call_log = open_call_log(settings)
        self._traces = open_traces(settings)
        keep = keep_in(*(keeper.keep for keeper in (self._call_log, self._traces) if keeper))
        self._recordings = open_recordings(settings)
        record = self._recordings.record if self._recordings else record_nothing
        self.manager = CallManager(settings, self.supervisor.send, self._can_serve, keep, record=record)
        self._refusals = RateLimiter(settings.refusals_per_minute)
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        self.app.add_middleware(TwilioPaths, public=self.public, refusals=self._refusals)
        self.lag = EventLoopLag()
        self.call_queue = CallQueue(self.manager, settings.queue_length, redirector, self.public)
        self.drain = Drain(self.manager, settings.drain_seconds, self.stopping)
        self._self_test = PipelineSelfTest(self.supervisor.send)
        for router in self._routers(settings):
            self.app.include_router(router)

    async def run(self, sock: socket.socket, beside: Sequence[Run] = ()) -> None:
        """Serve on `sock` until a signal, or until cancelled; what runs `beside` is cancelled after the last call.

        Raises WorkerRefused if a worker cannot run with these settings, SelfTestFailed if it cannot take a frame,
        SettingsError if calls or recordings can be kept nowhere, ServiceFailed if anything else has failed.
        """
        async with contextlib.AsyncExitStack() as stack:
            handler = stack.enter_context(SignalHandler(self._handle_signal))
            self._server = WebServer(self.app, handler.install)
            for keeper in (self._call_log, self._traces, self._recordings):
                if keeper:
                    keeper.start()
                    stack.push_async_callback(keeper.stop)
            failure = await self._run_tasks(self._server, sock, beside)
            if failure:
                raise failure

    async def _run_tasks(self, server: WebServer, sock: socket.socket, beside: Sequence[Run]) -> Exception | None:
        """Run everything until the web server ends; return what has failed."""
        async with asyncio.TaskGroup() as group:
            tasks = BackgroundTasks(group, self._stop, TOLD)
            restore_hook = tasks.watch_threads()
            supervising = tasks.start("the supervisor", partial(endless, self.supervisor.run))
            own = [
                tasks.start("the self-test", self._run_self_test),
                tasks.start("the lag gauge", partial(endless, self.lag.watch)),
                tasks.start("the waiting room", self.call_queue.run),
                tasks.start("the drain", partial(self.drain.run, self._stop)),
            ]
            serving = tasks.start("the web server", partial(server.serve, sock))
            service_tasks = [tasks.start(_name(companion), companion) for companion in beside]
            try:
                await asyncio.wait({serving})
            finally:
                self._stop()
                await asyncio.wait({serving})
                await cancel(*service_tasks)
                await cancel(*own)
                await cancel(supervising)
                restore_hook()
        return tasks.failure

    def _routers(self, settings: Settings) -> Iterator[APIRouter]:
        """Yield everything that can be asked: by Twilio, then by operators."""
        board, refusals = self.manager, self._refusals
        webhooks = Webhooks(self.public, settings.twilio_account_sid, refusals)
        operators = OperatorAuth(settings.operator_token, refusals)
        call_router = CallRouter(settings, self.public, board, self.call_queue)
        yield build_router(webhooks, call_router, board, operators, self.lag)
        yield build_wait_router(webhooks, call_router)
        yield build_selftest_router(self.public, webhooks, operators)
        yield build_drain_router(operators, self.drain, board, settings.max_call_seconds)
        yield build_recording_router(settings.recordings, operators.require)
        sources = Sources(
            *(settings, board, self.supervisor, call_router, self.call_queue),
            *(refusals.by_reason, self.lag, self._call_log, self._recordings, self._traces),
        )
        yield build_metrics_router(sources.families, operators.require)
        live = LiveView(board, self.call_queue.__len__, self.lag, model_name(settings))
        yield build_live_router(operators, board, live)
        yield build_history_router(operators, History(find_address(settings)))
        yield build_page_router(operators)

    async def _run_self_test(self) -> None:
        took_s = await self._test_pipeline()
        slots = self.supervisor.slots
        freeze_gc()
        self.manager.open_lines(slots, took_s)
        self.self_tested.set()
        ready = f"ready for calls at {self.public.base_url}" if self.public.is_open else "workers are ready"
        log.info("%s; a frame takes %.0f ms", ready, took_s * 1000)

    async def _test_pipeline(self) -> float:
        """Return what a frame takes. A pipeline that is lost during its test is tested again once it is back."""
        for attempt in range(1, SELF_TESTS + 1):
            await self.supervisor.wait_ready()
            try:
                return await self._self_test.run(min(self.supervisor.slots, TESTED_SLOTS))
            except PipelineLost:
                if attempt == SELF_TESTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _can_serve(self) -> bool:
        return self.self_tested.is_set() and self.supervisor.ready and self.public.is_open

    def _handle_signal(self, number: signal.Signals) -> None:
        """Drain at the first signal but SIGINT, if there is time for it; stop at SIGINT and whatever comes second."""
        if self._stopped:
            log.warning("%s: the service is stopping already", number.name)
        elif number is not signal.SIGINT and self.drain.limit_s and not self.drain.begun:
            self.drain.begin()
        else:
            self._stop()

    def _stop(self) -> None:
        """End the calls, then the web server, once."""
        if self._stopped or self._server is None:
            return
        self._stopped = True
        self.stopping.set()
        self.manager.stop()
        self._server.stop()

    def _take_message(self, message: PipelineMessage) -> None:
        if self.self_tested.is_set():
            self.manager.take_message(message)
        else:
            self._self_test.take_message(message)

    def _lose_pipeline(self, reason: str) -> None:
        if self.self_tested.is_set():
            self.manager.lose_pipeline(reason)
        else:
            self._self_test.lose_pipeline(reason)


def _name(companion: Run) -> str:
    function = companion
    while isinstance(function, partial):
        function = function.args[0] if function.func is endless else function.func
    return str(getattr(function, "__qualname__", function))
