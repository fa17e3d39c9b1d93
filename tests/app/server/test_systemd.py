"""What systemd hears, on sockets of its kind."""

import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.config import SettingsError, read_service_manager
from app.server.systemd import NotifySocket
from tests.sockets import socket_folder

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has abstract sockets")


@pytest.fixture(params=["path", pytest.param("abstract", marks=LINUX)])
def listening(request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.socket]]:
    """A socket to hear on, and its address as systemd writes it."""
    with socket_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        address = str(folder / "notify") if request.param == "path" else f"@moshi-{secrets.token_hex(8)}"
        sock.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sock.settimeout(5)
        yield address, sock


def test_what_is_new_is_one_datagram_and_the_watchdog_is_fed_each_time(listening: tuple[str, socket.socket]) -> None:
    address, sock = listening
    ready = ["READY=1", "STATUS=bereit für Anrufe"]
    with closing(NotifySocket(address)) as systemd:
        for lines, is_alive in ((ready, True), (ready, True), (ready, False), ([*ready, "STOPPING=1"], False)):
            systemd.send(lines, is_alive)
        heard = [sock.recv(1_000).decode() for _ in range(3)]
    assert heard == ["READY=1\nSTATUS=bereit für Anrufe\nWATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_systemd_that_is_gone_is_logged_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket_folder() as folder, closing(NotifySocket(str(folder / "nobody"))) as systemd:
        for line in ("READY=1", "STOPPING=1"):
            systemd.send([line], is_alive=True)
    assert len(caplog.records) == 1
    assert "NOTIFY_SOCKET" in caplog.text


def test_what_could_not_be_sent_is_sent_again() -> None:
    with socket_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        with closing(NotifySocket(str(folder / "notify"))) as systemd:
            systemd.send(["READY=1"], is_alive=False)
            sock.bind(str(folder / "notify"))
            systemd.send(["READY=1"], is_alive=False)
        sock.settimeout(5)
        assert sock.recv(1_000) == b"READY=1"


def test_the_watchdog_is_read_if_it_is_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (read_service_manager().notify_socket, read_service_manager().watchdog_s(1)) == ("", 0)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "77")
    assert read_service_manager().watchdog_s(77) == 30
    assert read_service_manager().watchdog_s(78) == 0
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    with pytest.raises(SettingsError, match="WATCHDOG_USEC"):
        read_service_manager()
