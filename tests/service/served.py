"""A service in this process, on a free port, with what Twilio and its callers need to reach it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from websockets.asyncio.client import connect

from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from app.calls.record import CallRecord
from app.config import Settings, read_settings
from app.server.service import Service
from app.server.transfers import CarrierRest
from app.twilio.events import CallSid
from tests.processes.pipeline import PATIENCE_S, START_S, log_lines
from tests.service.phone import ACCOUNT, PUBLIC, TOKEN, Phone
from tests.waiting import until
from workers.messages import Frame, Heard

LOOPBACK = {"engine": "loopback", "codec": "loopback"}
REAL_CALLS = {**LOOPBACK, "public_url": PUBLIC, "twilio_auth_token": TOKEN, "twilio_account_sid": ACCOUNT}


@dataclass
class Served:
    """A running service, a phone to call it with, and its log."""

    service: Service
    settings: Settings
    phone: Phone
    log: asyncio.Queue[str]

    @property
    def http(self) -> httpx.AsyncClient:
        return self.phone.http

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.phone.port}"

    @property
    def free_slots(self) -> int:
        return self.service.manager.free_slots

    def record(self, call_sid: CallSid) -> CallRecord:
        record = self.service.manager.record(call_sid)
        assert record
        return record

    def live(self, call_sid: CallSid) -> ActiveCall:
        call = self.service.manager.call(call_sid)
        assert call
        return call

    def says(self, call_sid: CallSid, text: str) -> None:
        """Let Moshi say a piece of text, as if it came from the pipeline."""
        reservation = self.live(call_sid).reservation
        self.service.manager.handle_message(Frame(reservation.slot, reservation.epoch, 0, None, text))

    def hears(self, call_sid: CallSid, word: str, start_s: float) -> None:
        """Let the transcriber hear a word of the caller's."""
        reservation = self.live(call_sid).reservation
        heard = Heard(reservation.slot, reservation.epoch, word, start_s, start_s + 0.25)
        self.service.manager.handle_transcript(heard)

    def follow(self, path: str, host: str = "127.0.0.1", **headers: str) -> connect:
        """Ask for an operator's socket, as a page or program that knows the service by that host name."""
        url = f"ws://{host}:{self.phone.port}{path}"
        return connect(url, host="127.0.0.1", additional_headers=headers, proxy=None, compression=None)

    async def until(self, *texts: str) -> str:
        """Wait for the log line that holds all these texts."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = await self.log.get()
                if all(text in line for text in texts):
                    return line

    def end_calls(self) -> None:
        """End the calls that a test has left, and pass over what was logged."""
        for call in self.service.manager.calls:
            call.end(EndReason.SHUTDOWN)
        while not self.log.empty():
            self.log.get_nowait()

    async def settle(self) -> None:
        """End the calls that a test has left; return once a new one gets a slot, as when the pipeline is back."""
        self.end_calls()
        await until(lambda: self.service.manager.ready)


@contextlib.asynccontextmanager
async def served(port: int = 0, rest: CarrierRest | None = None, **settings: object) -> AsyncIterator[Served]:
    """Run a service until the block ends or it ends by itself; it is ready for calls, or for its tunnel."""
    with socket.create_server(("127.0.0.1", port)) as sock:
        port = sock.getsockname()[1]
        read = read_settings(**{**REAL_CALLS, "port": port, **settings})
        service = Service(read, lambda _: None, rest)
        url = f"http://127.0.0.1:{port}"
        async with log_lines("app") as log, httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
            serving = asyncio.create_task(service.run(sock))
            ready = asyncio.create_task(service.self_tested.wait())
            try:
                await asyncio.wait({serving, ready}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
                assert service.self_tested.is_set()
                yield Served(service, read, Phone(port, http), log)
            finally:
                ready.cancel()
                serving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await serving
    assert service.supervisor.process_ids == {}
