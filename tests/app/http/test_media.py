"""The media socket against a peer that sends what is in a queue and can stop reading."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import WebSocket
from starlette.types import Message

from app.audio.playout import ClearAudio, SendAudio
from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from app.calls.manager import CallManager
from app.config import read_settings
from app.http.media import run_media_socket
from tests.processes.pipeline import PATIENCE_S
from tests.service.phone import ACCOUNT, CONNECTED, message, new_call_sid, start

ANN = new_call_sid()
STARTED = start(ANN)
STOP = {"accountSid": ACCOUNT, "callSid": ANN}


class Line:
    """A call on a manager of its own, and the other end of its socket as ASGI shows it.

    `reads` is cleared when the peer stops reading; `tried` is set once something was sent to it.
    """

    def __init__(self) -> None:
        self.manager = CallManager(read_settings(engine="loopback", codec="loopback"), lambda _: None, lambda: True)
        self.manager.start_accepting(1, processing_s=0.0)
        reservation = self.manager.reserve(ANN)
        assert reservation is not None
        call = self.manager.claim(reservation.token)
        assert call is not None
        self.call: ActiveCall = call
        self.says: asyncio.Queue[Message] = asyncio.Queue()
        self.heard: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.reads, self.tried = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.is_gone = False
        self.says.put_nowait({"type": "websocket.connect"})

    def serve(self, blocked_after_s: float = PATIENCE_S, silent_after_s: float = PATIENCE_S) -> "asyncio.Task[None]":
        socket = WebSocket({"type": "websocket", "path": "/", "headers": []}, self.says.get, self._receive)
        return asyncio.create_task(run_media_socket(socket, self.call, blocked_after_s, silent_after_s))

    async def serve_live(self, blocked_after_s: float = PATIENCE_S) -> "asyncio.Task[None]":
        """Serve, begin the stream and wait until the session knows of it."""
        serving = self.serve(blocked_after_s)
        self.say(CONNECTED, STARTED)
        await turns_until(lambda: self.call.session.record.started_s is not None)
        return serving

    def say(self, *texts: str) -> None:
        for text in texts:
            self.says.put_nowait({"type": "websocket.receive", "text": text})

    def disconnect(self, **close: object) -> None:
        self.says.put_nowait({"type": "websocket.disconnect", **close})

    def send(self, *numbers: int) -> None:
        self.call.carry_out([SendAudio(bytes(160), f"0:{number}", number) for number in numbers], self.call.clock())

    async def ends(self, serving: "asyncio.Task[None]", reason: EndReason, close_code: int | None = 1000) -> None:
        """Wait for the end, and check its reason, the close, and that the slot is free."""
        await asyncio.wait_for(serving, PATIENCE_S)
        assert (self.call.session.record.end, self.manager.free_slots) == (reason, 1)
        assert self.close_code == close_code

    async def _receive(self, message: Message) -> None:
        is_acceptance = message["type"] == "websocket.accept"
        if not is_acceptance:
            self.tried.set()
        if self.is_gone:
            raise OSError("nobody is there")
        if is_acceptance:
            return
        await self.reads.wait()
        if message["type"] == "websocket.close":
            self.close_code = message["code"]
            self.disconnect(code=1000)
        else:
            self.heard.append(json.loads(message["text"]))


async def turns_until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - turns of the loop, not a wait
        await asyncio.sleep(0)


async def test_commands_are_sent_in_order_and_the_socket_closes_when_the_caller_stops() -> None:
    line = Line()
    serving = await line.serve_live()
    line.send(2, 3)
    line.call.carry_out([ClearAudio()], line.call.clock())
    await turns_until(lambda: len(line.heard) == 6)
    line.say(message("stop", 2, stop=STOP))
    await line.ends(serving, EndReason.CALLER_HUNG_UP)
    kinds = [(heard["event"], heard.get("mark", {}).get("name")) for heard in line.heard]
    sent = [("media", None), ("mark", "0:2"), ("media", None), ("mark", "0:3"), ("clear", None)]
    assert kinds == [("mark", "0:1"), *sent]
    assert all(heard["streamSid"] == "MZ1" for heard in line.heard)


async def test_a_peer_that_is_gone_before_its_socket_is_accepted_ends_the_call() -> None:
    line = Line()
    line.is_gone = True
    await line.ends(line.serve(), EndReason.SOCKET_LOST, close_code=None)


async def test_a_peer_that_stops_reading_ends_the_call() -> None:
    line = Line()
    serving = await line.serve_live(blocked_after_s=0.0)
    line.reads.clear()
    line.send(1)
    await line.ends(serving, EndReason.SOCKET_BLOCKED, close_code=None)
    assert line.heard == []


async def test_while_the_peer_does_not_read_its_messages_are_handled() -> None:
    line = Line()
    serving = await line.serve_live()
    line.reads.clear()
    line.send(1)
    await asyncio.wait_for(line.tried.wait(), PATIENCE_S)
    line.say(message("dtmf", 2, dtmf={"track": "inbound_track", "digit": "5"}))
    await turns_until(lambda: line.call.session.record.counts["dtmf"] > 0)
    line.reads.set()
    line.say(message("stop", 3, stop=STOP))
    await line.ends(serving, EndReason.CALLER_HUNG_UP)


async def test_a_peer_that_does_not_read_cannot_hold_the_socket_open_after_the_call() -> None:
    line = Line()
    line.reads.clear()
    serving = await line.serve_live(blocked_after_s=0.0)
    line.call.end(EndReason.SHUTDOWN)
    await line.ends(serving, EndReason.SHUTDOWN, close_code=None)


async def test_a_peer_that_vanishes_ends_the_call() -> None:
    line = Line()
    serving = await line.serve_live()
    line.is_gone = True
    line.disconnect(code=1006)
    line.send(1, 2)
    await line.ends(serving, EndReason.SOCKET_LOST, close_code=None)


async def test_a_peer_that_sends_nothing_any_more_is_gone() -> None:
    line = Line()
    await line.ends(line.serve(silent_after_s=0.0), EndReason.SOCKET_LOST)
    assert line.call.session.record.detail == "no message for 0 s"


@pytest.mark.parametrize(
    ("close", "detail"),
    [
        ({"code": 1006}, "close code 1006"),
        ({"code": 1009, "reason": "frame is too large"}, "close code 1009: frame is too large"),
    ],
)
async def test_a_close_is_recorded_with_its_code_and_reason(close: dict[str, Any], detail: str) -> None:
    line = Line()
    serving = line.serve()
    line.disconnect(**close)
    await line.ends(serving, EndReason.SOCKET_LOST)
    assert line.call.session.record.detail == detail


@pytest.mark.parametrize(
    ("said", "is_our_fault", "reason"), [(STARTED, False, EndReason.PROTOCOL), (CONNECTED, True, EndReason.INTERNAL)]
)
async def test_a_fault_of_the_peers_or_of_ours_ends_the_call(
    monkeypatch: pytest.MonkeyPatch, said: str, is_our_fault: bool, reason: EndReason
) -> None:
    line = Line()
    if is_our_fault:
        monkeypatch.setattr(line.call.session, "receive", lambda *_: 1 / 0)
    serving = line.serve()
    line.say(said)
    await line.ends(serving, reason)
