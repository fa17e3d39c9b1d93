"""The connection to NATS: sealed messages in and out. It is made again for ever; meanwhile nothing is sent.

A message that is not sealed, none of its kind, old, or another node's is counted and dropped: nobody is answered.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from app.cluster.messages import AnyMessage, NodeMessage, node_name, parse
from app.cluster.seal import Seal
from app.setting_groups import ClusterSettings

log = logging.getLogger(__name__)

RECONNECT_S = 0.1
PING_S = 1
"""A server that does not answer two pings is given up for the next one."""
CONNECT_WITHIN_S = 2
CLOSE_WITHIN_S = 2.0
NO_RESPONDERS = "503"
"""What the server answers in place of a node that is gone."""
NATS_ERRORS = (Error, OSError, TimeoutError, ValueError)


class Bus:
    """The connection of one node; `on_change` is called when it is made and when it is lost."""

    def __init__(self, settings: ClusterSettings, seal: Seal, *, is_quiet: bool = False) -> None:
        self.name, self.seal = node_name(settings.node_url), seal
        self.nats = Client()
        self.on_change: Callable[[bool], None] = lambda connected: None
        self.refused = 0
        """Messages that were dropped."""
        servers, _, query = settings.nats_url.partition("?")
        self._servers, self._files = servers.split(","), dict(parse_qsl(query))
        self._is_closing, self._is_quiet = False, is_quiet
        self._last_error = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: list[tuple[str, Callable[[Msg], Awaitable[None]]]] = []
        """What is subscribed to, and who handles it."""

    @property
    def is_connected(self) -> bool:
        return self.nats.is_connected

    async def connect(self) -> None:
        """Return once NATS has been reached; from then on the connection is kept."""
        self.nats = Client()
        await self.nats.connect(
            self._servers,
            name=self.name,
            inbox_prefix=f"_INBOX.{self.name}",
            connect_timeout=CONNECT_WITHIN_S,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # seconds, may be a fraction
            ping_interval=PING_S,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_connected,
            closed_cb=self._on_closed,
            **self._credential(),
        )
        for subject, on_message in self._handlers:
            await self.nats.subscribe(subject, cb=on_message)
        await self._on_connected()

    async def close(self) -> None:
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                if self.is_connected:
                    await self.nats.flush()
                await self.nats.close()
        except (*NATS_ERRORS, AssertionError) as error:  # the client asserts that its credential could be read
            log.info("the connection to NATS was not closed in order: %s", error)

    async def publish(self, subject: str, message: NodeMessage, reply: str = "") -> None:
        """Send a message, unless NATS is away."""
        if self.is_connected:
            await self.send(subject, message.model_copy(update={"sent_s": time.time()}).to_bytes(), reply)

    async def send(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send what is sealed for this subject; an error of the connection is no error of ours."""
        try:
            await self.nats.publish(subject, self.seal.close(subject, body), reply)
        except NATS_ERRORS as error:
            log.debug("not sent: %s", error)

    async def request(
        self, subject: str, message: NodeMessage, kind: type[AnyMessage], within_s: float
    ) -> AnyMessage | None:
        """Return the first answer, None if none comes in time."""
        answers: list[AnyMessage] = []

        def add(answer: AnyMessage) -> bool:
            answers.append(answer)
            return True

        await self.ask_all(subject, message, kind, within_s, add)
        return answers[0] if answers else None

    async def ask_all(
        self,
        subject: str,
        message: NodeMessage,
        kind: type[AnyMessage],
        within_s: float,
        add: Callable[[AnyMessage], bool],
    ) -> None:
        """Pass each answer to `add` until it returns that it was the last one, or the time is over."""
        reply = self.nats.new_inbox()
        try:
            subscription = await self.nats.subscribe(reply)
        except NATS_ERRORS:
            return
        try:
            async with asyncio.timeout(within_s):
                await self.publish(subject, message, reply)
                async for received in subscription.messages:
                    if (received.headers or {}).get("Status") == NO_RESPONDERS:
                        return
                    answer = self._read(received, kind)
                    if answer is not None and add(answer):
                        return
        except NATS_ERRORS:
            return
        finally:
            with contextlib.suppress(*NATS_ERRORS):
                await subscription.unsubscribe()

    async def subscribe(
        self, subject: str, kind: type[AnyMessage], handle: Callable[[AnyMessage, str], Awaitable[None] | None]
    ) -> None:
        """Call `handle` with each message and the subject of its answer, in order; coroutines run in tasks."""

        async def on_message(received: Msg) -> None:
            message = self._read(received, kind)
            if message is None:
                return
            if received.reply and not received.reply.startswith("_INBOX."):  # an answer is sealed for its subject
                self.refused += 1
                return
            try:
                work = handle(message, received.reply)
                if work is not None:
                    self._run(work)
            except Exception:
                log.exception("internal error: a message of another node has no effect")

        self._handlers.append((subject, on_message))
        await self.nats.subscribe(subject, cb=on_message)

    def _run(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except Exception:
                log.exception("internal error: a message of another node has no effect")

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read(self, received: Msg, kind: type[AnyMessage]) -> AnyMessage | None:
        body = self.seal.open(received.subject, received.data)
        message = None if body is None else parse(kind, body)
        if message is not None and message.fits(received.subject, time.time()):
            return message
        self.refused += bool(received.data)
        return None

    def _credential(self) -> dict[str, Any]:
        """Return what the query of NATS_URL names."""
        files, given = self._files, dict[str, Any]()
        if "creds" in files:
            given["user_credentials"] = files["creds"]
        if "nkey" in files:
            given["nkeys_seed"] = files["nkey"]
        if "ca" in files:
            given["tls"] = ssl.create_default_context(cafile=files["ca"])
        given["tls_handshake_first"] = files.get("tls") == "first"
        return given

    async def _on_connected(self) -> None:
        url = self.nats.connected_url
        log.log(
            logging.DEBUG if self._is_quiet else logging.INFO,
            "connected to NATS at %s",
            url.netloc.rpartition("@")[2] if url else "",
        )
        self.on_change(True)

    async def _on_disconnected(self) -> None:
        if self._is_closing:
            return
        log.warning("NATS is away; calls go on, and new ones are placed from what was last known")
        self.on_change(False)

    async def _on_closed(self) -> None:
        """The client gives a server up that has sent an error, as when a credential has expired: make a new one."""
        if not self._is_closing:
            self._run(self._connect_again())

    async def _connect_again(self) -> None:
        await asyncio.sleep(RECONNECT_S)
        try:
            await self.connect()
        except Exception as error:  # whatever a credential raises that is being written
            await self._on_error(error)
            if not self.nats.is_closed:  # `_on_closed` is called then
                self._run(self._connect_again())

    async def _on_error(self, error: Exception) -> None:
        is_news = not self.is_connected and not self._is_quiet and repr(error) != self._last_error
        self._last_error = repr(error)
        log.log(logging.WARNING if is_news else logging.DEBUG, "NATS: %r", error)
