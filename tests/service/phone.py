"""Twilio's side, message by message: calls the webhook, opens the socket, sends anything at all."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from app.simulator.carrier import CarrierProtocol, Play
from app.simulator.options import CallOptions
from app.twilio import twiml
from app.twilio.events import CallSid, Connected, Media, Started, StreamSid
from app.twilio.signature import sign
from tests.processes.pipeline import PATIENCE_S

PUBLIC = "https://phone.example.com"
TOKEN, SECONDARY = "the-auth-token", "the-next-auth-token"
ACCOUNT = "AC" + "0" * 32
ABNORMAL = 1006
CONNECTED = '{"event":"connected","protocol":"Call","version":"1.0.0"}'
_numbers = itertools.count(1)


def new_call_sid() -> CallSid:
    return CallSid(f"CA{next(_numbers):032d}")


def form(call_sid: CallSid) -> dict[str, str]:
    return {"CallSid": call_sid, "AccountSid": ACCOUNT, "From": "+15550100001", "To": "+15550100000"}


@dataclass
class Phone:
    """A telephone network whose calls go to the service on `port`."""

    port: int
    http: httpx.AsyncClient

    async def post(
        self, path: str, fields: Mapping[str, str], token: str | None = TOKEN, url: str | None = None
    ) -> httpx.Response:
        """Post a webhook as Twilio signs it; unsigned without a token."""
        headers = {} if token is None else {"X-Twilio-Signature": sign(token, url or PUBLIC + path, fields.items())}
        return await self.http.post(path, data=dict(fields), headers=headers)

    async def ring(self, call_sid: CallSid) -> tuple[twiml.Verb, ...]:
        """Return what the service answers to a call."""
        return twiml.parse((await self.post("/twilio/voice", form(call_sid))).raise_for_status().text)

    async def stream_url(self, call_sid: CallSid) -> str:
        """Ring and return the address of the socket, as the TwiML says it."""
        (verb,) = await self.ring(call_sid)
        assert isinstance(verb, twiml.Connect)
        return verb.url

    def dial(self, url: str, token: str | None = TOKEN) -> connect:
        """Return the upgrade to a socket; unsigned without a token."""
        assert url.startswith("wss://phone.example.com/")
        signature = {} if token is None else {"X-Twilio-Signature": sign(token, url)}
        local = url.replace("wss://phone.example.com", f"ws://127.0.0.1:{self.port}")
        return connect(local, additional_headers=signature, compression=None, proxy=None, ping_interval=None)

    def options(self, **changes: Any) -> CallOptions:
        return CallOptions(PUBLIC, TOKEN, ACCOUNT, dial_url=f"http://127.0.0.1:{self.port}", **changes)

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator["Call"]:
        """Place a call and speak to it."""
        call_sid = new_call_sid()
        async with self.dial(await self.stream_url(call_sid)) as socket:
            call = Call(call_sid, socket)
            await call.begin()
            yield call


@dataclass
class Call:
    """A caller on the line: `say` a frame, `hear` one."""

    call_sid: CallSid
    socket: ClientConnection
    carrier: CarrierProtocol = field(default_factory=CarrierProtocol)
    packets: int = 0

    async def begin(self) -> None:
        await self.socket.send(self.carrier.send(Connected()))
        await self.socket.send(self.carrier.send(Started(StreamSid("MZ1"), self.call_sid, ACCOUNT)))

    async def say(self, payload: bytes) -> None:
        """Send 80 ms in four packets."""
        assert len(payload) == 640
        for start in range(0, 640, 160):
            self.packets += 1
            await self.socket.send(self.carrier.send(Media(20 * self.packets, payload[start : start + 160])))

    async def hear(self) -> bytes:
        """Return the next 80 ms or more, in however many packets they come; marks are passed over."""
        payload = b""
        async with asyncio.timeout(PATIENCE_S):
            while len(payload) < 640:
                wanted = self.carrier.receive(await self.socket.recv())
                payload += wanted.payload if isinstance(wanted, Play) else b""
        return payload

    async def speaks(self, frames: int = 1) -> None:
        """Say some frames and hear as many."""
        for _ in range(frames):
            await self.say(noise(self.packets))
            await self.hear()


async def closing_code(socket: ClientConnection) -> int:
    """Read until the server closes the socket; return its close code."""
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionClosedError):
            async for _ in socket:
                pass
        await socket.wait_closed()
    assert socket.close_code is not None
    assert socket.close_code != ABNORMAL, "the server dropped the connection"
    return socket.close_code


def noise(seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, 640, np.uint8).tobytes()


def message(event: str, sequence: int, **fields: object) -> str:
    """Return any message of Twilio's, right or wrong."""
    return json.dumps({"event": event, "sequenceNumber": str(sequence), "streamSid": "MZ1", **fields})


def start(call_sid: CallSid, **changes: object) -> str:
    """Return a start message, with changes."""
    fields = {
        "streamSid": "MZ1",
        "accountSid": ACCOUNT,
        "callSid": call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {},
    }
    return message("start", 1, start={**fields, **changes})


def media(sequence: int, payload: object = "/////w==", track: str = "inbound") -> str:
    return message("media", sequence, media={"track": track, "chunk": "1", "timestamp": "20", "payload": payload})
