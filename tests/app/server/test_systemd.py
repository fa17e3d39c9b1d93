"""What systemd hears, on sockets of its kind."""

import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import pytest

from app.config import ServiceManager, SettingsError, read_service_manager
from app.server.systemd import NOTHING_SENT, NotifySocket, ServiceStatus, notify_lines
from tests.sockets import socket_folder

WELL = ServiceStatus(ready=True, answering=True, stopping=False, text="2 of 2 slots free")
STARTING = ServiceStatus(ready=False, answering=True, stopping=False, text="starting the workers")
STOPPING = replace(WELL, stopping=True, text="stopping")
HUNG = replace(WELL, answering=False)


LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has abstract sockets")


@pytest.fixture(params=["path", pytest.param("abstract", marks=LINUX)])
def listening(request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.socket]]:
    """A socket to hear on, and its address as systemd writes it."""
    with socket_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        address = str(folder / "notify") if request.param == "path" else f"@moshi-{secrets.token_hex(8)}"
        sock.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sock.settimeout(5)
        yield address, sock


def test_every_message_is_one_datagram(listening: tuple[str, socket.socket]) -> None:
    address, sock = listening
    with closing(NotifySocket(address)) as systemd:
        systemd.send("READY=1\nSTATUS=bereit für Anrufe")
        systemd.send("WATCHDOG=1")
    assert sock.recv(1_000) == "READY=1\nSTATUS=bereit für Anrufe".encode()
    assert sock.recv(1_000) == b"WATCHDOG=1"


def test_a_systemd_that_is_gone_is_told_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket_folder() as folder, closing(NotifySocket(str(folder / "nobody"))) as systemd:
        systemd.send("READY=1")
        systemd.send("WATCHDOG=1")
    assert len(caplog.records) == 1
    assert "NOTIFY_SOCKET" in caplog.text


@pytest.mark.parametrize(
    ("watchdog", "story", "sent"),
    [
        (
            True,
            [STARTING, STARTING, WELL, WELL, STOPPING, STOPPING],
            [
                "STATUS=starting the workers\nWATCHDOG=1",
                "WATCHDOG=1",
                "READY=1\nSTATUS=2 of 2 slots free\nWATCHDOG=1",
                "WATCHDOG=1",
                "STOPPING=1\nSTATUS=stopping\nWATCHDOG=1",
                "WATCHDOG=1",
            ],
        ),
        (True, [WELL, HUNG, WELL], ["READY=1\nSTATUS=2 of 2 slots free\nWATCHDOG=1", "", "WATCHDOG=1"]),
        (False, [WELL, WELL], ["READY=1\nSTATUS=2 of 2 slots free", ""]),
    ],
    ids=["from start to stop", "workers that hang", "no watchdog"],
)
def test_changes_are_sent_once_and_the_watchdog_is_fed_while_the_workers_answer(
    watchdog: bool, story: list[ServiceStatus], sent: list[str]
) -> None:
    before = [NOTHING_SENT, *story]
    assert [notify_lines(*pair, watchdog=watchdog) for pair in pairwise(before)] == sent


def test_a_watchdog_that_is_meant_for_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "77")
    assert read_service_manager().watchdog_s(77) == 30
    assert read_service_manager().watchdog_s(78) == 0


def test_without_systemd_nothing_is_set() -> None:
    assert ServiceManager() == ServiceManager(notify_socket="", watchdog_usec=0, watchdog_pid=0)
    assert ServiceManager().watchdog_s(1) == 0


def test_a_watchdog_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    with pytest.raises(SettingsError, match="WATCHDOG_USEC"):
        read_service_manager()
