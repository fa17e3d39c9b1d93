"""The service's routes and manager without a server and without workers, on a clock in our hands."""

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.types import Message

from app.calls.active_call import ActiveCall
from app.calls.drain import Drain
from app.calls.manager import CallManager
from app.calls.prompts import PromptUnavailable
from app.calls.queue import CallQueue
from app.calls.router import CallRouter
from app.calls.routing import LocalRouting
from app.config import Settings, read_settings
from app.http.app import build_app
from app.http.persona_routes import PersonaSource
from app.http.rate_limit import RateLimiter
from app.server.transfers import CarrierRest, Transfers
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.live import LiveView
from app.twilio import twiml
from app.twilio.events import CallSid, Connected, Started, StreamSid
from app.twilio.public_address import PublicAddress
from app.twilio.signature import sign
from tests.service.phone import ACCOUNT, PUBLIC, SECONDARY, TOKEN, form, new_call_sid
from workers import messages

SOCKET_BASE = PUBLIC.replace("https:", "wss:")


def front_settings(**changes: object) -> Settings:
    """Return settings for real calls, with changes."""
    wanted = {
        "engine": "loopback",
        "codec": "loopback",
        "max_calls": 2,
        "public_url": PUBLIC,
        "twilio_auth_token": TOKEN,
        "twilio_auth_token_secondary": SECONDARY,
        "twilio_account_sid": ACCOUNT,
    }
    return read_settings(**{**wanted, **changes})


class NoPersonas:
    """The personas of a service that has none."""

    async def refresh(self) -> None: ...

    def as_json(self) -> list[dict[str, object]]:
        return []

    async def prepare_once(self, text: str, name: str, voice: str = "") -> str:
        raise PromptUnavailable("there are no personas")

    def drop_once(self, prompt: str) -> None: ...


class OnePrompt(NoPersonas):
    """Notes what is asked for and what is dropped; `fails` instead."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.dropped: list[str] = []
        self.fails: Exception | None = None

    async def prepare_once(self, text: str, name: str, voice: str = "") -> str:
        self.asked.append((text, name, voice))
        if self.fails:
            raise self.fails
        return "an-id"

    def drop_once(self, prompt: str) -> None:
        self.dropped.append(prompt)


@dataclass
class Front:
    """Post and dial as Twilio does; `sent` is what went to the workers."""

    settings: Settings = field(default_factory=front_settings)
    now_s: float = 0.0
    sent: list[messages.Message] = field(default_factory=list)
    personas: PersonaSource = field(default_factory=NoPersonas)
    rest: CarrierRest | None = None

    def __post_init__(self) -> None:
        self.manager = CallManager(self.settings, self.sent.append, lambda: True, clock=lambda: self.now_s)
        self.manager.start_accepting(self.settings.calls.slots, processing_s=0.0)
        public = PublicAddress(self.settings)
        call_queue = CallQueue(self.manager, self.settings.calls.queue_length, None, public)
        call_router = CallRouter(self.settings, public, self.manager, call_queue)
        lag = EventLoopLag()
        self.app = build_app(
            self.settings,
            public=public,
            manager=self.manager,
            call_router=call_router,
            routing=LocalRouting(call_router, self.manager),
            drain=Drain(self.manager, 0, asyncio.Event()),
            lag=lag,
            live=LiveView(self.manager, lambda: 0, lag, "line test"),
            limiter=RateLimiter(self.settings.operators.refusals_per_minute),
            metrics=list,
            personas=self.personas,
            transfer=Transfers(self.settings, self.manager, public, self.rest).transfer,
        )
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1")

    async def post(self, path: str, fields: Mapping[str, str], signature: str | None) -> httpx.Response:
        """Post a form; whatever the routes raise is raised here."""
        headers = {} if signature is None else {"X-Twilio-Signature": signature}
        return await self.http.post(path, data=dict(fields), headers=headers)

    async def ring(self, call_sid: CallSid) -> str:
        """Ring as Twilio does; return the path of the socket."""
        fields = form(call_sid)
        answer = await self.post("/twilio/voice", fields, sign(TOKEN, f"{PUBLIC}/twilio/voice", fields.items()))
        (verb,) = twiml.parse(answer.raise_for_status().text)
        assert isinstance(verb, twiml.Connect)
        return verb.url.removeprefix(SOCKET_BASE)

    def claim(self, path: str) -> ActiveCall:
        """Take the call whose socket has this path."""
        call = self.manager.claim(path.rpartition("/")[2])
        assert call
        return call

    async def talk(self) -> ActiveCall:
        """Ring, open the socket, start the stream."""
        call = self.claim(await self.ring(call_sid := new_call_sid()))
        start(call, call_sid)
        return call

    async def dial(
        self, path: str, signature: str | None, says: Iterable[str | bytes] = (), query: str = "", host: str = ""
    ) -> "Dialled":
        """Ask for a socket, say something if it is accepted, and leave once the service closes it or all is said."""
        dialled = Dialled(deque(says))
        headers = [(b"host", host.encode())] if host else []
        headers += [] if signature is None else [(b"x-twilio-signature", signature.encode())]
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": headers,
            "subprotocols": [],
            "client": ("127.0.0.1", 1),
            "extensions": {"websocket.http.response": {}},
        }
        await self.app(scope, dialled.receive, dialled.send)
        return dialled


def reply(answer: httpx.Response) -> tuple[int, Any]:
    """Return the status, and the reason or else what is answered."""
    body = answer.json()
    return answer.status_code, body.get("detail", body)


def start(call: ActiveCall, call_sid: CallSid) -> None:
    for event in (Connected(), Started(StreamSid("MZ1"), call_sid, ACCOUNT)):
        call.handle_event(event)


@dataclass
class Dialled:
    """One end of a socket as ASGI shows it: `accepted`, what was `heard`, the `code` of its close or refusal."""

    says: deque[str | bytes]
    accepted: bool = False
    code: int | None = None
    heard: list[Mapping[str, object]] = field(default_factory=list)
    told: bytes = b""
    """The body of a refusal."""
    headers: dict[str, str] = field(default_factory=dict)
    """Those of a refusal."""
    _asked: bool = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "websocket.connect"}
        if self.says and self.code is None:
            said = self.says.popleft()
            return {"type": "websocket.receive", "text" if isinstance(said, str) else "bytes": said}
        return {"type": "websocket.disconnect", "code": 1005}

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "websocket.accept":
                self.accepted = True
            case "websocket.close":
                self.code = message["code"]
            case "websocket.http.response.start":
                self.code = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            case "websocket.http.response.body":
                self.told += message["body"]
            case "websocket.send" if "text" in message:
                self.heard.append(json.loads(message["text"]))
