"""A server of few lines for the simulator to call: it answers webhooks from a list and plays a part on the socket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from app.twilio import twiml
from app.twilio.events import Connected, Event, Media, Started, Stopped
from app.twilio.protocol import StreamProtocol
from app.twilio.signature import SignatureCheck, socket_url

TOKEN = "secret"
PUBLIC_URL = "https://bridge.example"


@dataclass
class Line:
    """The server's end of one stream."""

    request: web.Request
    socket: web.WebSocketResponse
    protocol: StreamProtocol = field(default_factory=StreamProtocol)
    events: list[Event] = field(default_factory=list)

    async def take(self) -> Event | None:
        message = await self.socket.receive()
        if message.type is not web.WSMsgType.TEXT:
            return None
        self.events.append(self.protocol.receive(message.data))
        return self.events[-1]

    async def until(self, kind: type[Event]) -> Event | None:
        while (event := await self.take()) is not None:
            if isinstance(event, kind):
                return event
        return None


Part = Callable[[Line], Awaitable[None]]


@dataclass
class SmallServer:
    """What to answer, and what was asked: `answers` are used up one request after the other."""

    parts: list[Part] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    upgrades: list[dict[str, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    url: str = ""
    check: SignatureCheck = field(default_factory=lambda: SignatureCheck(PUBLIC_URL, [TOKEN]))

    async def webhook(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if not self.check.webhook_valid(request.path_qs, form.items(), request.headers.get("X-Twilio-Signature")):
            return web.Response(status=403)
        self.asked.append((request.path, form))
        return web.Response(text=self.answers.pop(0), content_type="application/xml")

    async def media(self, request: web.Request) -> web.StreamResponse:
        if not self.check.socket_valid(request.path_qs, request.headers.get("X-Twilio-Signature")):
            return web.Response(status=403)
        self.upgrades.append(dict(request.headers))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.lines.append(Line(request, socket))
        await self.parts.pop(0)(self.lines[-1])
        await socket.close()
        return socket


@asynccontextmanager
async def serving(*parts: Part, answers: list[str] | None = None) -> AsyncIterator[SmallServer]:
    server = SmallServer(list(parts), answers or [connect()])
    application = web.Application()
    application.router.add_post("/{path:.*}", server.webhook)
    application.router.add_get("/media/{token}", server.media)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


def connect(path: str = "/media/token", status_url: str | None = None) -> str:
    return twiml.connect(socket_url(PUBLIC_URL) + path, f"{PUBLIC_URL}/after", {"slot": "3"}, status_url)


async def echo(line: Line) -> None:
    frame = bytearray()
    while not isinstance(event := await line.take(), Stopped | None):
        if isinstance(event, Media):
            frame += event.payload
        if len(frame) == 640:
            await line.socket.send_str(line.protocol.media(bytes(frame)))
            frame.clear()


async def leave(line: Line) -> None:
    assert isinstance(await line.take(), Connected)
    assert isinstance(await line.take(), Started)
