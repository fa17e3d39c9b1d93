"""The doctor's check of the Moshi servers: each is connected to, and must be ready for a conversation in time."""

import asyncio
from collections.abc import Iterator

from app.cli.doctor.finding import Finding, good, problem
from app.config import Settings
from app.server.remote.connection import ConnectionFailed
from app.server.remote.targets import Targets
from app.server_urls import ServerUrl


def examine_servers(settings: Settings) -> Iterator[Finding]:
    servers = settings.model.servers
    try:
        targets = Targets(servers, dict(settings.sampling.given))
    except ValueError as error:
        yield problem("MOSHI_SERVERS", str(error))
        return
    yield from asyncio.run(_try_all(targets, servers))


async def _try_all(targets: Targets, servers: tuple[ServerUrl, ...]) -> list[Finding]:
    return await asyncio.gather(*(_try(targets, server) for server in servers))


async def _try(targets: Targets, server: ServerUrl) -> Finding:
    try:
        took_s = await targets.try_server(server)
    except ConnectionFailed as error:
        return problem("MOSHI_SERVERS", f"{server.shown}: {error}")
    sessions = f"{server.sessions} session{'s' * (server.sessions > 1)}"
    return good("MOSHI_SERVERS", f"{server.shown} is ready after {took_s * 1000:.0f} ms, for {sessions}")
