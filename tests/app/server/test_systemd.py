"""What systemd hears, on sockets of its kind."""

import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.config import ServiceManager, SettingsError, read_service_manager
from app.server.systemd import NotifySocket, ServiceStatus, StatusMessages
from tests.sockets import socket_folder

WELL = ServiceStatus(ready=True, answering=True, stopping=False, status="2 of 2 slots free")
STARTING = ServiceStatus(ready=False, answering=False, stopping=False, status="starting the workers")


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
    with NotifySocket(address) as systemd:
        systemd.send("READY=1\nSTATUS=bereit für Anrufe")
        systemd.send("WATCHDOG=1")
    assert sock.recv(1_000) == "READY=1\nSTATUS=bereit für Anrufe".encode()
    assert sock.recv(1_000) == b"WATCHDOG=1"


def test_a_systemd_that_is_gone_is_told_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket_folder() as folder, NotifySocket(str(folder / "nobody")) as systemd:
        systemd.send("READY=1")
        systemd.send("WATCHDOG=1")
    assert len(caplog.records) == 1
    assert "NOTIFY_SOCKET" in caplog.text


def test_a_life_as_systemd_hears_it() -> None:
    heart = StatusMessages(watchdog=True)
    stopping = replace(WELL, stopping=True, status="stopping")
    story = [STARTING, STARTING, WELL, WELL, stopping, stopping]
    assert [heart.beat(vitals) for vitals in story] == [
        "STATUS=starting the workers",
        "",
        "READY=1\nSTATUS=2 of 2 slots free\nWATCHDOG=1",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=stopping\nWATCHDOG=1",
        "WATCHDOG=1",
    ]


def test_the_watchdog_is_not_fed_while_a_worker_does_not_answer() -> None:
    heart = StatusMessages(watchdog=True)
    heart.beat(WELL)
    assert heart.beat(replace(WELL, answering=False)) == ""
    assert heart.beat(WELL) == "WATCHDOG=1"


def test_without_a_watchdog_only_news_are_told() -> None:
    heart = StatusMessages(watchdog=False)
    heart.beat(WELL)
    assert heart.beat(WELL) == ""


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
