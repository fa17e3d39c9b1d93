"""What is sent to which server, and whom of them we trust."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.server.remote.connection import Advice, ConnectionFailed, Target, open_socket, wait_handshake
from app.server.remote.query import personaplex_query, sampling_query
from app.server.remote.tls import make_context
from app.server_urls import ServerUrl
from workers.messages import CallPersona, PreparePrompt

ADVICE = Advice(
    "the token or the password in MOSHI_SERVERS is missing or wrong",
    "Add #ca=FILE to its URL in MOSHI_SERVERS, or for a self-signed certificate the #sha256=… that "
    "`openssl x509 -noout -fingerprint -sha256 -in cert.pem` prints on the server",
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server may take, in seconds."""

    open_s: float = 5.0
    ready_s: float = 5.0
    """From the connection to the handshake."""
    prompted_s: float = 30.0
    """The same for PersonaPlex, which steps its prompts first, for 10 to 20 s."""
    silent_s: float = 4.0
    """Without a message, or without reading one: servers send something every 80 ms."""
    free_s: float = 5.0
    """Until there is a server for a call."""

    def handshake_s(self, server: ServerUrl) -> float:
        return self.prompted_s if server.personaplex else self.ready_s


PATIENCE = Patience()


class Targets:
    """`sampling` is that of the settings, by our names. Raises ValueError if a certificate cannot be read."""

    def __init__(
        self, servers: Iterable[ServerUrl], sampling: Mapping[str, float], patience: Patience = PATIENCE
    ) -> None:
        self._sampling, self._patience = sampling, patience
        self._tls = {
            server.shown: make_context(server.ca, server.pin) if server.url.startswith("wss:") else None
            for server in servers
        }

    def target(self, server: ServerUrl, persona: CallPersona, prompt: PreparePrompt | None) -> Target:
        """Return where a call of a persona with this prompt goes. What the URL says wins over settings."""
        query = {**sampling_query({**self._sampling, **dict(persona.sampling)}), **server.query}
        if server.personaplex:
            query = {**personaplex_query("", ""), **query}
            if prompt:
                query |= personaplex_query(prompt.text, prompt.voice)
        headers = {"Authorization": f"Bearer {server.token}"} if server.token else {}
        return Target(server.asking(query), server.shown, headers, self._tls[server.shown])

    async def try_server(self, server: ServerUrl) -> float:
        """Connect, and wait for the handshake; return how long that took in seconds. Raises ConnectionFailed."""
        began_s = time.monotonic()
        socket = await open_socket(self.target(server, CallPersona(), None), ADVICE, self._patience.open_s)
        try:
            await wait_handshake(socket, self._patience.handshake_s(server))
        finally:
            await socket.close()
        return time.monotonic() - began_s

    async def try_connection(self, server: ServerUrl) -> float:
        """The same; PersonaPlex is only connected to: whoever waits there sets the persona of the next session."""
        if not server.personaplex:
            return await self.try_server(server)
        began_s, (host, port) = time.monotonic(), self.target(server, CallPersona(), None).address
        try:
            async with asyncio.timeout(self._patience.open_s):
                _, writer = await asyncio.open_connection(host, port, ssl=self._tls[server.shown])
        except OSError as error:
            raise ConnectionFailed(f"not reached ({error.strerror or 'no answer in time'})") from error
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return time.monotonic() - began_s
