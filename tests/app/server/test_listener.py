"""The web server over a small application, on sockets of the system's."""

import asyncio
import logging
import socket
import subprocess
import sys

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.server.listener import DESCRIPTORS, WebServer
from tests.processes.pipeline import PATIENCE_S


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Start, and deny every upgrade."""
    match scope["type"]:
        case "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        case "websocket":
            await send({"type": "websocket.http.response.start", "status": 429, "headers": [(b"retry-after", b"60")]})
            await send({"type": "websocket.http.response.body", "body": b"later"})


async def test_a_denied_upgrade_has_its_status_and_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    server = WebServer(application)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        task = asyncio.create_task(server.serve(sock))
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{sock.getsockname()[1]}", proxy=None)
        assert refused.value.response.status_code == 429
        server.stop()
        await asyncio.wait_for(task, PATIENCE_S)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_the_limit_of_descriptors_is_raised() -> None:
    program = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))\n"
        "from app.server.listener import raise_descriptor_limit; raise_descriptor_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], hard)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    limit, hard = map(int, done.stdout.split())
    assert limit == (DESCRIPTORS if hard < 0 else min(DESCRIPTORS, hard))
