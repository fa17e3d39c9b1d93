"""A Twilio of our own: ring the webhook, follow its TwiML, conduct the streams. A thin shell.

What the caller does and hears is decided in `stream.py` and `playout.py`; the socket is in `line.py`, the form
requests in `webhook.py`. Here is what lies between them: one call from ringing to the status callback.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never
from urllib.parse import urljoin

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus, WebSocketException

from app.audio import mulaw
from app.simulator.address import dialled
from app.simulator.line import Cut, Gone, HungUp, LineEnding, Violated, converse, dial
from app.simulator.measure import level_dbfs
from app.simulator.options import CallOptions, read_script
from app.simulator.pace import Realtime
from app.simulator.playout import PlayoutModel
from app.simulator.progress import (
    PULSE_S,
    CallEnded,
    OnProgress,
    Pulse,
    Ringing,
    StreamClosed,
    StreamOpened,
    Waiting,
    ignore_progress,
)
from app.simulator.remote import EndCall, FetchTwiml, Order, Remote, RunTwiml
from app.simulator.report import CallReport, Outcome, StreamReport
from app.simulator.stream import CallerScript, CallerStream
from app.simulator.waiting import Left, wait_in_line
from app.simulator.wav import Samples
from app.simulator.webhook import WebhookClient, WebhookError, signature_header
from app.twilio import twiml
from app.twilio.events import RATE_HZ, CallSid, Started, StreamSid

CLOSED_NORMALLY = 1000
HANDSHAKE_FAILED = 31920
AS_INTENDED = {
    *(Outcome.CALLER_HUNG_UP, Outcome.LINE_CUT, Outcome.SERVER_HUNG_UP, Outcome.REJECTED),
    Outcome.ENDED_REMOTELY,
}


async def simulate(
    options: CallOptions, on_progress: OnProgress = ignore_progress, remote: Remote | None = None
) -> CallReport:
    """Run one call and report it; a server that misbehaves shows in `CallReport.outcome`, not as an exception.

    `remote` may end the call or send it elsewhere while it is on.

    Raises `ValueError` for options that make no call, and whatever reading the audio file raises.
    """
    script = await asyncio.to_thread(read_script, options)
    async with WebhookClient.open(options.auth_token, options.dial_url) as webhook:
        return await _Call(options, script, webhook, on_progress, remote or Remote()).run()


@dataclass(frozen=True, slots=True)
class _Ending:
    """How the call ended, with the HTTP status that ended it, if one did."""

    outcome: Outcome
    sentence: str
    status: int | None = None


class _Call:
    """One call: its play-out and its clock run on through all its streams."""

    def __init__(
        self,
        options: CallOptions,
        script: CallerScript,
        webhook: WebhookClient,
        on_progress: OnProgress,
        remote: Remote,
    ) -> None:
        self._options, self._script, self._webhook, self._tell = options, script, webhook, on_progress
        self._remote = remote
        self._document_url = self._url(options.voice_path)
        self._call_sid = CallSid(options.call_sid or f"CA{secrets.token_hex(16)}")
        self._playout = PlayoutModel()
        self._streams: list[StreamReport] = []
        self._pace: Realtime | None = None
        self._now_s = 0.0
        self._pulses = 0

    async def run(self) -> CallReport:
        ending = await self._ring()
        if self._options.status_path is not None:
            ending = await self._post_status(self._options.status_path, ending)
        self._tell(CallEnded(self._now_s, ending.outcome, ending.sentence))
        return self._report(ending)

    async def _ring(self) -> _Ending:
        self._tell(Ringing(self._call_sid, self._document_url))
        call_status = "in-progress" if self._options.outbound else "ringing"
        try:
            ending = await self._follow(await self._ask(self._document_url, call_status))
            while order := self._remote.take():
                ending = await self._obey(order)
            return ending
        except WebhookError as error:
            return _Ending(Outcome.WEBHOOK_FAILED, str(error), error.status)
        except twiml.TwimlError as error:
            return _Ending(Outcome.BAD_TWIML, str(error))

    async def _obey(self, order: Order) -> _Ending:
        match order:
            case EndCall():
                return _Ending(Outcome.ENDED_REMOTELY, "ended from outside")
            case FetchTwiml(url):
                self._document_url = url
                return await self._follow(await self._ask(url, "in-progress"))
            case RunTwiml(text):
                return await self._follow(twiml.parse(text))
            case _:
                assert_never(order)

    async def _follow(self, verbs: Sequence[twiml.Verb]) -> _Ending:
        """Follow TwiML until a verb or a stream ends the call, or no verb is left."""
        left = deque(verbs)
        while left:
            match left.popleft():
                case twiml.Reject(reason):
                    return _Ending(Outcome.REJECTED, reason)
                case twiml.Hangup():
                    return _Ending(Outcome.SERVER_HUNG_UP, "<Hangup>")
                case twiml.Connect() as verb:
                    if ending := await self._connect(verb):
                        return ending
                    if verb.action is not None:
                        left = deque(await self._ask(self._action_url(verb.action), "in-progress"))
                case twiml.Enqueue() as verb:
                    if isinstance(outcome := await self._wait(verb), _Ending):
                        return outcome
                    left = deque(outcome)
                case twiml.Pause(seconds):
                    await asyncio.sleep(seconds)
                case twiml.Say() | twiml.Leave() | twiml.Other():
                    continue
                case unreachable:
                    assert_never(unreachable)
        return _Ending(Outcome.SERVER_HUNG_UP, "no TwiML left")

    async def _ask(self, url: str, call_status: str, **more: str) -> Sequence[twiml.Verb]:
        return twiml.parse(await self._webhook.post(url, self._form(call_status) | more))

    async def _wait(self, verb: twiml.Enqueue) -> _Ending | Sequence[twiml.Verb]:
        """Wait in line; return what comes then, or how the call ended there."""
        wait_url, action_url = self._action_url(verb.wait_url), self._action_url(verb.action)
        with self._options.exchange.waiting(self._call_sid) as redirected:
            self._tell(Waiting(self._call_sid))
            pages = partial(self._ask, wait_url, "in-progress")
            left = await wait_in_line(pages, redirected, self._options.patience_s)
        verbs = await self._ask(action_url, "in-progress", QueueResult=left.queue_result)
        match left:
            case Left.REDIRECTED:
                return await self._ask(redirected.result(), "in-progress")
            case Left.TOLD_TO:
                return verbs
            case Left.CALLER_GAVE_UP:
                return _Ending(Outcome.CALLER_HUNG_UP, left)
            case Left.SERVER_HUNG_UP:
                return _Ending(Outcome.SERVER_HUNG_UP, left)

    async def _connect(self, verb: twiml.Connect) -> _Ending | None:
        """Conduct one stream; None when the server closed it and the TwiML goes on."""
        if len(self._streams) >= self._options.max_streams:
            return _Ending(Outcome.TOO_MANY_STREAMS, f"gave up after {len(self._streams)} streams")
        url = verb.url.split("?")[0]
        signature = signature_header(self._options.auth_token, url)
        try:
            socket = await dial(dialled(url, self._options.dial_url), signature)
        except (WebSocketException, OSError) as error:
            status = error.response.status_code if isinstance(error, InvalidStatus) else None
            await self._tell_stream(verb, "stream-error", StreamError=f"{HANDSHAKE_FAILED} Handshake Error")
            return _Ending(Outcome.HANDSHAKE_FAILED, f"{url}: {error}", status)
        async with socket:
            ending = _ending(await self._conduct(socket, url, verb))
        await self._tell_stream(verb, "stream-stopped")
        return ending

    async def _tell_stream(self, verb: twiml.Connect, event: str, **more: str) -> None:
        """Tell how a stream ended, and go on whatever is answered; of its beginning nothing is told."""
        if verb.status_url:
            with suppress(WebhookError):
                form = self._form("in-progress") | {"StreamEvent": event, **more}
                await self._webhook.post(self._action_url(verb.status_url), form)

    async def _conduct(self, socket: ClientConnection, url: str, verb: twiml.Connect) -> LineEnding:
        pace = self._pace = self._pace or Realtime(time.monotonic)
        started = self._started(verb)
        opened_s = pace.now_s(self._now_s) if self._streams else 0.0
        stream = CallerStream(started, self._script, self._playout, opened_s)
        self._tell(StreamOpened(started.stream_sid, url, stream.opened_s))
        ending = await converse(socket, stream, pace, lambda: self._turn(stream))
        self._now_s = pace.now_s(stream.now_s) if isinstance(ending, Gone) else stream.now_s
        self._playout.clear(self._now_s)
        self._keep(StreamReport(url, started.stream_sid, stream.opened_s, self._now_s, stream.counts), ending)
        return ending

    def _keep(self, record: StreamReport, ending: LineEnding) -> None:
        gone = ending if isinstance(ending, Gone) else Gone(CLOSED_NORMALLY, "")
        self._streams.append(replace(record, close_code=gone.code, close_reason=gone.reason))
        self._tell(StreamClosed(record.stream_sid, self._now_s, gone.code, gone.reason))

    def _turn(self, stream: CallerStream) -> None:
        if self._remote.ordered:
            stream.leave()
        self._beat(stream.now_s)

    def _beat(self, now_s: float) -> None:
        """Tell the levels once a quarter of a second."""
        if now_s < (self._pulses + 1) * PULSE_S:
            return
        self._pulses, since_s = int(now_s / PULSE_S), max(now_s - PULSE_S, 0.0)
        said = mulaw.decode(self._script.said[round(since_s * RATE_HZ) : round(now_s * RATE_HZ)])
        heard = mulaw.decode(self._playout.heard(now_s, since_s))
        buffered_s, underruns = self._playout.buffered_s(now_s), len(self._playout.underruns)
        self._tell(Pulse(now_s, buffered_s, underruns, level_dbfs(said), level_dbfs(heard)))

    async def _post_status(self, path: str, ending: _Ending) -> _Ending:
        status = "busy" if ending.outcome is Outcome.REJECTED else "completed"
        form = self._form(status) | {"CallDuration": str(round(self._now_s))}
        try:
            await self._webhook.post(self._url(path), form)
        except WebhookError as error:
            failed = _Ending(Outcome.STATUS_FAILED, str(error), error.status)
            return failed if ending.outcome in AS_INTENDED else ending
        return ending

    def _url(self, path: str) -> str:
        return self._options.base_url.rstrip("/") + path

    def _action_url(self, action: str) -> str:
        """Return the URL of an action, which may be relative to the document that it stands in."""
        return urljoin(self._document_url, action)

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

    def _started(self, verb: twiml.Connect) -> Started:
        stream_sid = StreamSid(f"MZ{secrets.token_hex(16)}")
        return Started(stream_sid, self._call_sid, self._options.account_sid, verb.parameters)

    def _report(self, ending: _Ending) -> CallReport:
        heard = mulaw.decode(self._playout.heard(self._now_s))
        return CallReport(
            self._call_sid,
            ending.outcome,
            ending.sentence,
            ending.status,
            self._now_s,
            _fitted(mulaw.decode(self._script.said), len(heard)),
            heard,
            tuple(self._streams),
            tuple(self._playout.underruns),
            tuple(self._playout.buffer_levels),
            tuple(self._playout.returned),
            self._playout.discarded_samples / RATE_HZ,
        )


def _ending(ending: LineEnding) -> _Ending | None:
    """Return how the end of a stream ends the call, None when it does not."""
    match ending:
        case HungUp():
            return _Ending(Outcome.CALLER_HUNG_UP, "the caller hung up")
        case Cut():
            return _Ending(Outcome.LINE_CUT, "the connection broke, as the scenario wants it")
        case Violated(sentence):
            return _Ending(Outcome.PROTOCOL_VIOLATION, sentence)
        case Gone():
            return None
        case _:
            assert_never(ending)


def _fitted(samples: Samples, length: int) -> Samples:
    """Cut the samples off at `length`, or end them in silence."""
    return np.pad(samples[:length], (0, max(length - len(samples), 0)))
