"""A call router over a real manager, whose workers are a list, and a redirector in our hands."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from app.calls.active_call import ActiveCall, ObserverFactory
from app.calls.manager import CallManager
from app.calls.observer import RecordObserver
from app.calls.personas import Chosen, choose_nobody
from app.calls.queue import CallQueue
from app.calls.record import CallRecord
from app.calls.router import CallRouter
from app.config import read_settings
from app.twilio import twiml
from app.twilio.errors import CarrierError
from app.twilio.events import CallSid, Connected, Started, StreamSid
from app.twilio.form import Form
from app.twilio.public_address import PublicAddress
from workers.messages import Message, PreparePrompt, Resumed

BASE_URL = "http://127.0.0.1:5001"
ANN, BOB, EVE, DAN, KIM = (CallSid(f"CA{name}") for name in ("ann", "bob", "eve", "dan", "kim"))


class FakeRedirector:
    """Notes whom it is told to redirect; Twilio `fails` for some."""

    def __init__(self, front: "Front") -> None:
        self.redirected: list[tuple[str, str]] = []
        self.unreserved: list[str] = []
        self.fails: set[str] = set()
        self.error: Exception = CarrierError("HTTP 500")
        self._front = front

    async def redirect(self, call_sid: str, url: str) -> None:
        if not self._front.manager.holds(CallSid(call_sid)):
            self.unreserved.append(call_sid)
        if call_sid in self.fails:
            raise self.error
        self.redirected.append((call_sid, url))


class Front:
    """What Twilio meets, without its signatures and sockets."""

    def __init__(
        self,
        has_redirector: bool = True,
        clock: Callable[[], float] = time.monotonic,
        choose: Callable[[str, str, str], Chosen] = choose_nobody,
        former_prompt: Callable[[str], PreparePrompt | None] = lambda key: None,
        observers: Sequence[ObserverFactory] = (),
        **settings: object,
    ) -> None:
        self.sent: list[Message] = []
        self.warm = True
        read = read_settings(**{"engine": "loopback", "codec": "loopback", "max_calls": 2, **settings})
        self.kept: list[CallRecord] = []
        """What the call log was given, as it was then."""
        self.manager = CallManager(
            read,
            self.sent.append,
            lambda: self.warm,
            [*observers, self._keep],
            choose,
            former_prompt=former_prompt,
            clock=clock,
        )
        self.redirector = FakeRedirector(self)
        redirector = self.redirector if has_redirector else None
        self.call_queue = CallQueue(self.manager, read.calls.queue_length, redirector, PublicAddress(read))
        self.call_router = CallRouter(read, PublicAddress(read), self.manager, self.call_queue)
        self.manager.start_accepting(read.calls.slots, processing_s=0.0)

    def _keep(self, call: ActiveCall) -> RecordObserver:
        return RecordObserver(
            call.session, call.reservation.slot, lambda record, _: self.kept.append(record.copy()), amended=True
        )

    def ring(
        self, call_sid: CallSid, caller: str = "+15550100001", webhook_token: str = "", query: str = "", **fields: str
    ) -> twiml.Verb:
        """Return the first verb of what a call is answered."""
        asked = replace(form(call_sid, From=caller, **fields), query=query)
        return twiml.parse(self.call_router.answer(asked, webhook_token))[0]

    def page(self, call_sid: CallSid) -> twiml.Verb:
        (verb,) = twiml.parse(self.call_router.wait(form(call_sid)))
        return verb

    def left(self, call_sid: CallSid, result: str) -> twiml.Verb:
        (verb,) = twiml.parse(self.call_router.after_wait(form(call_sid, QueueResult=result)))
        return verb

    def after_stream(self, call_sid: CallSid, again: int = 0, webhook_token: str = "", **fields: str) -> twiml.Verb:
        """Return the first verb of what is answered when a stream is over that was the call's `again`-th again."""
        asked = replace(
            form(call_sid, **{"CallStatus": "in-progress", **fields}), query=f"again={again}" if again else ""
        )
        return twiml.parse(self.call_router.after_stream(asked, webhook_token))[0]

    def post_status(self, call_sid: CallSid, **fields: str) -> None:
        self.call_router.handle_status(form(call_sid, **fields))

    def open_socket(self, verb: twiml.Verb) -> ActiveCall:
        """Claim the slot that the TwiML leads to."""
        assert isinstance(verb, twiml.Connect)
        call = self.manager.claim(verb.url.rpartition("/")[2])
        assert call is not None
        return call

    def talk(self, call_sid: CallSid) -> ActiveCall:
        """Ring, open the socket, start the stream."""
        call = self.open_socket(self.ring(call_sid))
        for event in (Connected(), Started(StreamSid("MZ1"), call_sid, "AC1")):
            call.handle_event(event)
        return call

    def go_on(self, call: ActiveCall | None, steps: int = 0, left_out: int = 0) -> None:
        """Let the pipeline answer that it goes on with a call."""
        assert call
        assert call.session.suspended_since_s is not None
        self.manager.handle_message(Resumed(call.reservation.slot, call.reservation.epoch, steps, left_out))

    @contextlib.asynccontextmanager
    async def redirecting(self) -> AsyncIterator[None]:
        """Let the queue redirect, and all that is on its way go out before the block ends."""
        running = asyncio.create_task(self.call_queue.run())
        try:
            yield
            await settle()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def form(call_sid: CallSid, **fields: str) -> Form:
    return Form(call_sid, {"From": "+15550100001", "To": "+15550100000", **fields})
