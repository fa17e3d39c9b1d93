"""The one public address of several nodes: passes each webhook to the next of them that answers."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from app.cli.service_process import HOST

GIVES_UP_S = 1.0
"""How long one node may take to accept a connection before the next is asked; Twilio waits 15 s for the answer."""


@dataclass
class Balancer:
    """Round robin over `nodes`, base URLs; `answered` has the path, the seconds and the CallSid of each webhook."""

    nodes: list[str] = field(default_factory=list)
    port: int = 0
    answered: list[tuple[str, float, str, float]] = field(default_factory=list)
    _turn: Iterator[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def handle(self, request: web.Request) -> web.Response:
        body, started_s = await request.read(), time.monotonic()
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in ("host", "content-length")
        }
        for _ in range(2 * len(self.nodes)):
            node = self.nodes[next(self._turn) % len(self.nodes)]
            url = node + request.path_qs
            with contextlib.suppress(ClientError, TimeoutError):
                async with self._client.request(request.method, url, data=body, headers=headers) as answer:
                    text = await answer.text()
                    if answer.status < 500:
                        call_sid = str((await request.post()).get("CallSid", ""))
                        now = time.monotonic()
                        self.answered.append((request.path, now - started_s, call_sid, now))
                        return web.Response(text=text, status=answer.status, content_type="application/xml")
        return web.Response(status=502)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Balancer"]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        self.port = runner.addresses[0][1]
        try:
            async with ClientSession(
                timeout=ClientTimeout(total=12.0, sock_read=12.0, sock_connect=GIVES_UP_S)
            ) as client:
                self._client = client
                yield self
        finally:
            await runner.cleanup()
