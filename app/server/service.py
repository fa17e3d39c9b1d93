"""The service: workers, call manager, observers and web server, from the start to a signal or a failure."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain

from fastapi import FastAPI

from app.calls.drain import Drain
from app.calls.manager import CallManager
from app.calls.queue import CallQueue
from app.calls.router import CallRouter
from app.calls.routing import LocalRouting
from app.calls.speech_backend import BackendMessage, Moved
from app.config import Settings, SettingsError
from app.http.app import build_app
from app.http.rate_limit import RateLimiter
from app.server.assembly import model_name, open_backend, open_node
from app.server.background import BackgroundTasks, Run, cancel, endless
from app.server.listener import WebServer
from app.server.persona_prompts import ServicePersonas
from app.server.pipeline_self_test import PipelineSelfTest, SelfTestFailed
from app.server.remote.pipeline import PROCESSING_S, RemotePipeline
from app.server.signals import handle_stop_signals
from app.server.sinks import Sinks
from app.server.transfers import CarrierRest, Transfers
from app.server.webhook_actions import carry_out
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.live import LiveView
from app.telemetry.metrics.catalogue import MetricSources
from app.telemetry.webhooks.actions import Action
from app.twilio.events import CallSid
from app.twilio.public_address import PublicAddress
from workers.control_messages import Progress
from workers.gc_freeze import freeze_gc
from workers.messages import TranscriptMessage
from workers.supervisor import WorkerRefused

log = logging.getLogger(__name__)

LAST_WORDS_WITHIN_S = 3.0
"""How long the end of the service waits for what callers said last."""
USER_ERRORS = (WorkerRefused, SelfTestFailed, SettingsError)
"""Errors that are no bugs: the message is one line for the person who started the service."""


class Service:
    """One service; `rest` redirects callers who wait in the queue, and transfers calls. Raises SettingsError."""

    def __init__(
        self, settings: Settings, on_progress: Callable[[Progress], None], rest: CarrierRest | None = None
    ) -> None:
        self.public = PublicAddress(settings)
        self.self_tested = asyncio.Event()
        """Set once the workers have passed the self-test and the prompts of the personas are prepared."""
        self.stopping = asyncio.Event()
        """Set once no more calls are accepted, while the last ones end."""
        self._tested = asyncio.Event()
        self._stopped = False
        self.supervisor = open_backend(
            settings,
            self._on_message,
            self._on_pipeline_lost,
            on_progress,
            on_prompt=lambda answer: self._personas.handle_message(answer),
            on_transcript=self._on_transcript,
        )
        self._sinks = Sinks(settings, self._act, self._drop_forgotten)
        self._personas = ServicePersonas(settings, self.supervisor.send)
        self.manager = CallManager(
            settings,
            self.supervisor.send,
            self._can_serve,
            [*self._sinks.observers(), lambda call: self.node.observe(call) if self.node else None],
            self._personas.choose,
            former_prompt=self._personas.former,
            checkpoint=self._checkpoint,
        )
        self._lost = asyncio.Event()
        """Set while calls wait for the next pipeline."""
        self.lag = EventLoopLag()
        is_alone = not settings.cluster.nats_url
        self.call_queue = CallQueue(self.manager, settings.calls.queue_length, rest if is_alone else None, self.public)
        self.transfers = Transfers(settings, self.manager, self.public, rest)
        self._call_router = router = CallRouter(settings, self.public, self.manager, self.call_queue)
        self.node = open_node(settings, self.public.service_name, self.manager, router, rest, self._checkpoint)
        """This node of several, None without NATS_URL."""
        move = self.node.move_calls if self.node else None
        self.drain = Drain(self.manager, settings.calls.drain_seconds, self.stopping, move)
        self._self_test = PipelineSelfTest(self.supervisor.send)
        self.app = self._build_app(settings)
        self._server = WebServer(self.app)

    async def run(self, sock: socket.socket, tasks: Iterable[tuple[str, Run]] = ()) -> None:
        """Serve on `sock` until a signal, or until cancelled; `tasks`, with names, are cancelled after the last call.

        Raises WorkerRefused if a worker cannot run with these settings, SelfTestFailed if it cannot take a frame,
        SettingsError if calls or recordings can be kept nowhere or a prompt is refused, TaskFailed if anything else
        has failed.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(handle_stop_signals(self._handle_signal))
            self._sinks.start(stack)
            await self._run_tasks(sock, tasks)

    async def _run_tasks(self, sock: socket.socket, tasks: Iterable[tuple[str, Run]]) -> None:
        """Run everything until the web server ends; raise what has failed."""
        async with asyncio.TaskGroup() as group:
            background = BackgroundTasks(group, self._stop, USER_ERRORS)
            sender = self._sinks.webhooks
            webhooks = [background.start("the webhooks", partial(endless, sender.run))] if sender else []
            supervising = background.start("the supervisor", partial(endless, self.supervisor.run))
            own = [
                background.start("the self-test", self._run_self_test),
                background.start("the prompts of the personas", partial(endless, self._prepare_prompts)),
                background.start("the calls that wait for a pipeline", partial(endless, self._resume_calls)),
                background.start("the persona files", partial(endless, self._personas.watch)),
                background.start("the event loop lag", partial(endless, self.lag.watch)),
                background.start("the call queue", self.call_queue.run),
                background.start("the drain", partial(self.drain.run, self._stop)),
            ]
            if self.node:
                own.append(background.start("the node", partial(endless, partial(self.node.run, self.drain))))
            serving = background.start("the web server", partial(self._server.serve, sock))
            service_tasks = [background.start(name, task) for name, task in tasks]
            with background.watch_threads():
                try:
                    await asyncio.wait({serving})
                finally:
                    self._stop()
                    await asyncio.wait({serving})
                    await self.manager.last_words.finish(LAST_WORDS_WITHIN_S)
                    for ending in (service_tasks, own, [supervising], webhooks):
                        await cancel(*ending)
        if background.failure:
            raise background.failure

    def _act(self, call_sid: CallSid, action: Action) -> None:
        carry_out(action, call_sid, self.manager, self.transfers)

    def _drop_forgotten(self, call_sids: set[str]) -> list[CallSid]:
        """Drop from memory the given calls that are over; return those calls."""
        dropped = self.manager.drop_ended(call_sids)
        for call_sid in dropped:
            self.manager.forget(call_sid)
        return dropped

    def _checkpoint(self) -> str:
        return self.supervisor.checkpoint

    def _build_app(self, settings: Settings) -> FastAPI:
        call_router = self._call_router
        limiter = RateLimiter(settings.operators.refusals_per_minute)
        sources = MetricSources(
            settings,
            manager=self.manager,
            supervisor=self.supervisor,
            servers=lambda: self.supervisor.servers if isinstance(self.supervisor, RemotePipeline) else (),
            call_router=call_router,
            call_queue=self.call_queue,
            refusals=limiter.by_reason,
            lag=self.lag,
            call_log=self._sinks.call_log,
            recordings=self._sinks.recordings,
            traces=self._sinks.traces,
            webhooks=self._sinks.webhooks,
        )
        return build_app(
            settings,
            public=self.public,
            manager=self.manager,
            call_router=call_router,
            routing=self.node.routing if self.node else LocalRouting(call_router, self.manager),
            drain=self.drain,
            lag=self.lag,
            live=LiveView(
                self.manager,
                lambda: len(self.node.member.callers if self.node else self.call_queue),
                self.lag,
                model_name(settings),
                cluster=self.node.view if self.node else None,
            ),
            limiter=limiter,
            metrics=lambda: chain(sources.families(), self.node.families() if self.node else ()),
            personas=self._personas,
            transfer=self.transfers.transfer,
            cluster=self.node,
        )

    async def _run_self_test(self) -> None:
        took_s = await self._test_backend()
        self._tested.set()
        await self._personas.wait_prepared()
        slots = self.supervisor.slots
        freeze_gc()
        self.manager.sampling = self.supervisor.sampling
        self.manager.start_accepting(slots, took_s)
        self.self_tested.set()
        ready = f"ready for calls at {self.public.base_url}" if self.public.is_open else "workers are ready"
        log.info("%s; a frame takes %.0f ms", ready, took_s * 1000)

    async def _test_backend(self) -> float:
        """Return what a frame takes in seconds, once no worker is loading its weights beside it.

        A Moshi server that has answered is not tested further.
        """
        if isinstance(self.supervisor, RemotePipeline):
            await self.supervisor.wait_ready()
            return PROCESSING_S
        if self.supervisor.transcription:
            await self.supervisor.transcription.wait_begun()
        return await self._self_test.run_until_passed(self.supervisor.wait_ready, lambda: self.supervisor.slots)

    async def _prepare_prompts(self) -> None:
        """Begin after the self-test, whose steps are measured."""
        await self._tested.wait()
        await self._personas.run(self.supervisor.wait_ready)

    async def _resume_calls(self) -> None:
        while True:
            await self._lost.wait()
            await self.supervisor.wait_ready()
            if self.supervisor.ready:  # it may be lost again by now
                self._lost.clear()
                self.manager.on_pipeline_ready()

    def _can_serve(self) -> bool:
        workers_can = self.self_tested.is_set() and self.supervisor.ready and self._personas.settled
        return workers_can and self.public.is_open

    def _handle_signal(self, number: signal.Signals) -> None:
        """Drain at the first SIGTERM or SIGHUP if calls may go on; stop at SIGINT and at any second signal."""
        if self._stopped:
            log.warning("%s: the service is stopping already", number.name)
        elif number is not signal.SIGINT and (self.drain.limit_s or self.node) and not self.drain.begun:
            self.drain.begin()
        else:
            self._stop()

    def _stop(self) -> None:
        """End the calls, then the web server, once."""
        if self._stopped:
            return
        self._stopped = True
        self.stopping.set()
        self.manager.stop()
        self._server.stop()

    def _on_message(self, message: BackendMessage) -> None:
        if self.self_tested.is_set():
            self.manager.handle_message(message)
        elif not isinstance(message, Moved):
            self._self_test.handle_message(message)

    def _on_transcript(self, message: TranscriptMessage) -> None:
        if self.self_tested.is_set():
            self.manager.handle_transcript(message)

    def _on_pipeline_lost(self, reason: str) -> None:
        self._personas.on_pipeline_lost()
        if self.self_tested.is_set():
            self._lost.set()
            self.manager.on_pipeline_lost(reason)
        else:
            self._self_test.on_pipeline_lost(reason)
