"""Posts events to `WEBHOOK_URL`: signed, one connection pool, never on a call's path.

Redirects are not followed: an event goes where the operator wrote, nowhere else. Of an answer no more is read than an
action needs. What goes wrong is logged when it begins and when it is over.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

from app.logging import CallLogger
from app.telemetry.webhooks.actions import MOST_ANSWER_BYTES, Action, NoAction, parse_answer
from app.telemetry.webhooks.queue import DeliveryQueue, WebhookEvent
from app.telemetry.webhooks.signature import sign
from app.twilio.events import CallSid

log = logging.getLogger(__name__)

TIMEOUT = ClientTimeout(total=5.0)
STOP_WITHIN_S = 3.0
AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
"""With every 5xx, the statuses after which an event is posted again."""


class Refused(Exception):
    """The receiver did not accept an event; `again`: it may later, after `pause_s`."""

    def __init__(self, reason: str, *, again: bool, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.pause_s = again, pause_s


class WebhookSender:
    """`act` carries out what an answer asks for, in the call of this CallSid."""

    def __init__(
        self, url: str, secret: str, act: Callable[[CallSid, Action], None], timeout: ClientTimeout = TIMEOUT
    ) -> None:
        self._url, self._secret, self._act, self._timeout = url, secret, act, timeout
        self._queue = DeliveryQueue()
        self._changed = asyncio.Event()
        self._posts: set[asyncio.Task[None]] = set()
        self._fault = ""
        self.sent = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def lost(self) -> int:
        return self._queue.lost

    def add(self, event: WebhookEvent) -> None:
        """Queue an event; never waits."""
        self._queue.add(event)
        self._changed.set()

    async def run(self) -> None:
        """Post until cancelled; then what waits, for `STOP_WITHIN_S`."""
        async with ClientSession(timeout=self._timeout) as session:
            try:
                while True:
                    await self._post_due(session)
            finally:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._finish(session), STOP_WITHIN_S)
                for post in self._posts:
                    post.cancel()

    async def _finish(self, session: ClientSession) -> None:
        while self._posts or self._queue.is_due(time.monotonic()):
            await self._post_due(session)

    async def _post_due(self, session: ClientSession) -> None:
        """Begin the posts that are due; wait until there may be others."""
        self._changed.clear()
        for event in self._queue.start_due(time.monotonic()):
            post = asyncio.create_task(self._post(session, event))
            self._posts.add(post)
            post.add_done_callback(self._on_posted)
        due_s = self._queue.get_timer()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), None if due_s is None else due_s - time.monotonic())

    def _on_posted(self, post: asyncio.Task[None]) -> None:
        self._posts.discard(post)
        self._changed.set()

    async def _post(self, session: ClientSession, event: WebhookEvent) -> None:
        try:
            answer = await self._deliver(session, event)
        except Refused as refused:
            kept = self._queue.failed(event, time.monotonic(), again=refused.again, pause_s=refused.pause_s)
            self._log_fault(f"{refused}; {'it is sent again' if kept else 'the event is lost'}")
        except Exception:  # the root of this task
            log.exception("an event cannot be sent")
            self._queue.failed(event, time.monotonic(), again=False)
        else:
            self._queue.succeeded(event)
            self.sent += 1
            self._log_fault("")
            self._carry_out(event, answer)

    def _carry_out(self, event: WebhookEvent, answer: bytes) -> None:
        try:
            if action := parse_answer(answer):
                self._act(event.call_sid, action)
        except NoAction as error:
            CallLogger(log, event.call_sid).warning("the answer of WEBHOOK_URL: %s", error)
        except Exception:
            CallLogger(log, event.call_sid).exception("internal error")

    def _log_fault(self, fault: str) -> None:
        """Log a fault when it begins, or changes, or is over."""
        if fault and fault != self._fault:
            log.warning("WEBHOOK_URL does not accept events: %s", fault)
        elif self._fault and not fault:
            log.info("WEBHOOK_URL accepts events again")
        self._fault = fault

    async def _deliver(self, session: ClientSession, event: WebhookEvent) -> bytes:
        """Post an event; return the beginning of the answer. Raises Refused."""
        headers = {"content-type": "application/json", **sign(self._secret, event.id, int(time.time()), event.body)}
        try:
            async with session.post(self._url, data=event.body, headers=headers, allow_redirects=False) as response:
                if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                    return await _read(response) if event.asks else b""
                again = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status in AGAIN
                after = response.headers.get("Retry-After", "")
                pause_s = float(after) if after.isdecimal() and len(after) < 5 else 0.0
                raise Refused(f"HTTP {response.status}", again=again, pause_s=pause_s)
        except TimeoutError as error:
            raise Refused("no answer in time", again=True) from error
        except (ClientError, OSError, ValueError) as error:
            raise Refused(type(error).__name__, again=True) from error


async def _read(response: ClientResponse) -> bytes:
    """Return an answer, or more of it than an action may have."""
    try:
        return await response.content.readexactly(MOST_ANSWER_BYTES + 1)
    except asyncio.IncompleteReadError as shorter:
        return shorter.partial
