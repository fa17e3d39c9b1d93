"""One simulated call, from ringing to the status callback: ask the webhook, follow its TwiML, open the streams.

What the caller does and hears is decided in `stream` and `playout`; `client` has the sockets and the form requests.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import assert_never
from urllib.parse import urljoin

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from app.audio import mulaw
from app.simulator.chat import simulate_chat
from app.simulator.client import (
    WebhookClient,
    WebhookError,
    converse,
    handshake_failed,
    open_webhooks,
    stream_report,
)
from app.simulator.measure import level_dbfs
from app.simulator.options import CallOptions, LegKind, read_script
from app.simulator.playout import PlayoutModel
from app.simulator.progress import PULSE_S, OnProgress, Pulse, StreamOpened, Waiting, ignore_progress
from app.simulator.remote import EndCall, Follow, LeftQueue, Order, Redirect, Remote, wait_in_queue
from app.simulator.report import CallReport, Ending, Outcome, StreamReport, call_report
from app.simulator.stream import CallerScript, CallerStream
from app.twilio import twiml
from app.twilio.events import RATE_HZ, CallSid, Started, StreamSid

AS_INTENDED = {
    *(Outcome.CALLER_HUNG_UP, Outcome.LINE_CUT, Outcome.SERVER_HUNG_UP, Outcome.REJECTED),
    Outcome.ENDED_REMOTELY,
}
MAX_STREAMS = 10


async def simulate(
    options: CallOptions, on_progress: OnProgress = ignore_progress, remote: Remote | None = None
) -> CallReport:
    """Run one call and report it; what the server does wrong is in `CallReport.outcome`, not an exception.

    `remote` may end or redirect the call while it is on. Raises `ValueError` for options that make no call, and
    whatever reading the audio file raises.
    """
    script = await asyncio.to_thread(read_script, options)
    if options.leg is not LegKind.PHONE:
        return await simulate_chat(options, script)
    async with open_webhooks(options.auth_token, options.dial_url) as webhook:
        return await _PhoneCall(options, script, webhook, on_progress, remote or Remote()).run()


class _PhoneCall:
    """One call; its playout buffer and its clock run on through all its streams."""

    def __init__(
        self,
        options: CallOptions,
        script: CallerScript,
        webhook: WebhookClient,
        on_progress: OnProgress,
        remote: Remote,
    ) -> None:
        self._options, self._script, self._webhook, self._on_progress = options, script, webhook, on_progress
        self._remote = remote
        self._base_url = options.base_url.rstrip("/")
        self._document_url = self._base_url + options.voice_path
        self._call_sid = CallSid(options.call_sid or f"CA{secrets.token_hex(16)}")
        self._playout = PlayoutModel()
        self._streams: list[StreamReport] = []
        self._zero_s: float | None = None
        self._now_s = 0.0
        self._pulses = 0

    async def run(self) -> CallReport:
        ending = await self._ring()
        if self._options.status_path is not None:
            ending = await self._post_status(self._base_url + self._options.status_path, ending)
        heard = (self._script.said, self._playout, self._streams)
        return call_report(self._call_sid, ending, self._now_s, *heard, zero_s=self._zero_s or 0.0)

    async def _ring(self) -> Ending:
        try:
            call_status = "in-progress" if self._options.outbound else "ringing"
            ending = await self._follow(await self._fetch(self._document_url, call_status))
            while order := self._remote.pop():
                ending = await self._obey(order)
            return ending
        except WebhookError as error:
            return Ending(Outcome.WEBHOOK_FAILED, str(error), error.status)
        except twiml.TwimlError as error:
            return Ending(Outcome.BAD_TWIML, str(error))

    async def _obey(self, order: Order) -> Ending:
        match order:
            case EndCall():
                return Ending(Outcome.ENDED_REMOTELY, "ended by the REST API")
            case Redirect(url):
                self._document_url = url
                return await self._follow(await self._fetch(url))
            case Follow(text):
                return await self._follow(twiml.parse(text))
            case _:
                assert_never(order)

    async def _follow(self, verbs: Sequence[twiml.Verb]) -> Ending:
        """Follow TwiML until a verb or a stream ends the call, or no verb is left."""
        left = deque(verbs)
        while left:
            match left.popleft():
                case twiml.Reject(reason):
                    return Ending(Outcome.REJECTED, reason)
                case twiml.Hangup():
                    return Ending(Outcome.SERVER_HUNG_UP, "<Hangup>")
                case twiml.Connect() as verb:
                    if ending := await self._connect(verb):
                        return ending
                    if verb.action is not None:
                        left = deque(await self._fetch(verb.action))
                case twiml.Enqueue() as verb:
                    if isinstance(outcome := await self._wait(verb), Ending):
                        return outcome
                    left = deque(outcome)
                case twiml.Dial() as verb:
                    left = deque(await self._fetch(verb.action, DialCallStatus=self._options.dial_status))
                case twiml.Pause(seconds):
                    await asyncio.sleep(seconds)
                case twiml.SayVerb() | twiml.Leave() | twiml.Other():
                    continue
                case unreachable:
                    assert_never(unreachable)
        return Ending(Outcome.SERVER_HUNG_UP, "no TwiML left")

    async def _fetch(self, url: str, call_status: str = "in-progress", **more: str) -> Sequence[twiml.Verb]:
        """Ask for TwiML at a URL, which may be relative to its document's."""
        form = self._form(call_status) | more
        return twiml.parse(await self._webhook.post(urljoin(self._document_url, url), form))

    async def _wait(self, verb: twiml.Enqueue) -> Ending | Sequence[twiml.Verb]:
        """Wait in the queue; return what follows, or how the call ended there."""
        self._on_progress(Waiting())
        left = await wait_in_queue(partial(self._fetch, verb.wait_url), self._remote, self._options.patience_s)
        verbs = await self._fetch(verb.action, QueueResult=left.queue_result)
        if left is LeftQueue.LEAVE:
            return verbs
        hung_up = Outcome.CALLER_HUNG_UP if left is LeftQueue.CALLER_HUNG_UP else Outcome.SERVER_HUNG_UP
        return Ending(hung_up, left)

    async def _connect(self, verb: twiml.Connect) -> Ending | None:
        """Run one stream; None when the server closed it and the TwiML goes on."""
        if len(self._streams) >= MAX_STREAMS:
            return Ending(Outcome.TOO_MANY_STREAMS, f"gave up after {len(self._streams)} streams")
        url = verb.url.split("?")[0]
        try:
            socket = await self._webhook.open_socket(url)
        except (WebSocketException, OSError) as error:
            await self._post_stream_status(verb, "stream-error", StreamError="31920 Handshake Error")
            return handshake_failed(url, error)
        ending = await self._run_stream(socket, url, verb.parameters)
        await self._post_stream_status(verb, "stream-stopped")
        return ending

    async def _run_stream(self, socket: ClientConnection, url: str, parameters: Mapping[str, str]) -> Ending | None:
        stream_sid = StreamSid(f"MZ{secrets.token_hex(16)}")
        started = Started(stream_sid, self._call_sid, self._options.account_sid, parameters)
        stream = CallerStream(started, self._script, self._playout, self._clock())
        self._on_progress(StreamOpened())
        async with socket:
            ending = await converse(socket, stream, self._clock, partial(self._on_turn, stream))
            if stream.cut and self._options.asks_after_cut:
                ending = None
            self._now_s = stream.now_s if ending else max(self._clock(), stream.now_s)
        self._playout.clear(self._now_s)
        self._streams.append(stream_report(url, stream, self._now_s, socket))
        return ending

    async def _post_stream_status(self, verb: twiml.Connect, event: str, **more: str) -> None:
        """Report how a stream ended, whatever is answered."""
        if verb.status_url:
            with suppress(WebhookError):
                form = self._form("in-progress") | {"StreamEvent": event, **more}
                await self._webhook.post(urljoin(self._document_url, verb.status_url), form)

    def _clock(self) -> float:
        """Return the seconds since the first stream started, which is at the first call."""
        if self._zero_s is None:
            self._zero_s = time.monotonic()
            return 0.0
        return max(time.monotonic() - self._zero_s, self._now_s)

    def _on_turn(self, stream: CallerStream) -> None:
        """Obey the REST API at once, and report the levels of each quarter of a second."""
        if self._remote.ordered:
            stream.leave()
        now_s = stream.now_s
        if now_s < (self._pulses + 1) * PULSE_S:
            return
        self._pulses, since_s = int(now_s / PULSE_S), max(now_s - PULSE_S, 0.0)
        said = mulaw.decode(self._script.said[round(since_s * RATE_HZ) : round(now_s * RATE_HZ)])
        heard = mulaw.decode(self._playout.heard(now_s, since_s))
        self._on_progress(Pulse(now_s, self._playout.buffered_s(now_s), level_dbfs(said), level_dbfs(heard)))

    async def _post_status(self, url: str, ending: Ending) -> Ending:
        status = "busy" if ending.outcome is Outcome.REJECTED else "completed"
        try:
            await self._webhook.post(url, self._form(status) | {"CallDuration": str(round(self._now_s))})
        except WebhookError as error:
            failed = Ending(Outcome.STATUS_FAILED, str(error), error.status)
            return failed if ending.outcome in AS_INTENDED else ending
        return ending

    def _form(self, call_status: str) -> dict[str, str]:
        detected = {"AnsweredBy": self._options.answered_by} if self._options.answered_by else {}
        return {
            "CallSid": self._call_sid,
            "AccountSid": self._options.account_sid,
            "From": self._options.from_number,
            "To": self._options.to_number,
            "CallStatus": call_status,
            "Direction": "outbound-api" if self._options.outbound else "inbound",
            "ApiVersion": "2010-04-01",
            **detected,
        }
