"""The connection to NATS, to a server that says as little as a client needs."""

import asyncio
import shutil
from pathlib import Path

import nkeys  # type: ignore[import-untyped]
import pytest

from app.cluster.bus import Bus
from app.cluster.log_store import LogStore
from app.cluster.messages import Heartbeat
from app.cluster.seal import Seal
from tests.app.cli.talk.test_tls import Certificate
from tests.app.cluster.nodes import node_settings, sid
from tests.processes.pipeline import PATIENCE_S
from tests.waiting import until


async def serve_nats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'INFO {"max_payload": 1000, "tls_required": true}\r\n')
    async for line in reader:
        if line == b"PING\r\n":
            writer.write(b"PONG\r\n")
    writer.close()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
async def test_tls_first_says_nothing_in_clear(tmp_path: Path) -> None:
    """As nats-server does it from 2.10.4 on; who sits in between cannot say that there is no TLS."""
    made = Certificate(tmp_path)
    async with await asyncio.start_server(serve_nats, "127.0.0.1", 0, ssl=made.context) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"tls://127.0.0.1:{port}?ca={made.path}&tls=first"
        bus = Bus(node_settings(url, node_url="http://a.example.com").cluster, Seal(["one"]))
        async with asyncio.timeout(PATIENCE_S):
            await bus.connect()
        assert bus.is_connected
        await bus.close()


async def test_a_bus_whose_credential_is_missing_can_be_closed(tmp_path: Path) -> None:
    bus = Bus(node_settings(f"nats://127.0.0.1:1?nkey={tmp_path}/none", node_url="http://a").cluster, Seal(["one"]))
    with pytest.raises(FileNotFoundError):
        await bus.connect()
    await bus.close()


class CountingBus(Bus):
    tries = 0

    async def connect(self) -> None:
        self.tries += 1
        await super().connect()


async def test_a_server_that_ends_the_connection_with_an_error_is_connected_to_again(tmp_path: Path) -> None:
    """As nats-server does it when a credential has expired; its file may just be written anew."""
    connections: list[list[bytes]] = []
    credential = tmp_path / "node.nk"
    credential.write_bytes(seed := nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(lines := [])
        writer.write(b'INFO {"max_payload": 1000}\r\n')
        async for line in reader:
            lines.append(line)
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
            if line.startswith(b"SUB") and len(connections) == 1:
                credential.write_bytes(b"")
                writer.write(b"-ERR 'User Authentication Expired'\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}?nkey={credential}"
        bus = CountingBus(node_settings(url, node_url="http://a.example.com").cluster, Seal(["one"]))
        await bus.connect()
        await bus.subscribe("hb.*", Heartbeat, lambda heartbeat, reply: None)
        await until(lambda: bus.tries >= 2)
        assert not await LogStore(bus, 60.0).purge(sid(1)), "as a webhook asks for it"
        credential.write_bytes(seed)
        await until(lambda: any(line.startswith(b"SUB hb.* ") for lines in connections[1:] for line in lines))
        await until(lambda: bus.is_connected)
        await bus.close()
