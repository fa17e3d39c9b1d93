"""NATS servers as processes: one alone, or three as a cluster."""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.cli.service_process import free_port
from tests.waiting import until

PROGRAM = shutil.which("nats-server")
needs_nats = pytest.mark.skipif(PROGRAM is None, reason="nats-server is not installed")


@dataclass
class NatsServers:
    """`url` is what a node is given as NATS_URL."""

    folder: Path
    ports: list[int]
    routes: list[int]
    processes: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)

    async def start(self, number: int) -> None:
        """Start one server and wait until it accepts connections."""
        assert PROGRAM
        port, store = self.ports[number], self.folder / f"nats-{number}"
        command = [PROGRAM, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(store)]
        if len(self.ports) > 1:
            routes = ",".join(f"nats://127.0.0.1:{route}" for route in self.routes)
            command += ["--cluster_name", "test", "--cluster", f"nats://127.0.0.1:{self.routes[number]}"]
            command += ["--routes", routes, "--server_name", f"nats-{number}"]
        with (self.folder / f"nats-{number}.log").open("ab") as log:
            self.processes[number] = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        await until(lambda: _accepts_connections(port))

    async def kill(self, number: int) -> None:
        """Kill one server, as when its machine is gone."""
        process = self.processes.pop(number)
        process.kill()
        await process.wait()

    async def stop(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def nats_servers(folder: Path, count: int = 1) -> AsyncIterator[NatsServers]:
    ports: set[int] = set()
    while len(ports) < 2 * count:  # what was free once may be named again
        ports.add(free_port())
    servers = NatsServers(folder, [*ports][:count], [*ports][count:])
    try:
        await asyncio.gather(*(servers.start(number) for number in range(count)))
        yield servers
    finally:
        await servers.stop()


async def _accepts_connections(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    info = await reader.readline()
    writer.close()
    return info.startswith(b"INFO")
