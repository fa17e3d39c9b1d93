"""The media socket against a peer in our hands, who says what is in a queue and reads only if he is told to."""

import asyncio
import json
from typing import Any

import pytest
from fastapi import WebSocket
from starlette.types import Message

from app.audio.playout import ClearAudio, SendAudio
from app.calls.manager import ActiveCall, CallManager
from app.calls.record import EndReason
from app.config import read_settings
from app.http.media import run_media_socket
from app.twilio.events import CallSid

ANN = CallSid("CAann")
GUARD_S = 30.0
"""Against a test that would wait for ever; nothing is measured by it."""
NO_PATIENCE_S = 0.0
CONNECTED = {"event": "connected", "protocol": "Call", "version": "1.0.0"}
STARTED = {
    "event": "start",
    "sequenceNumber": "1",
    "streamSid": "MZ1",
    "start": {
        "streamSid": "MZ1",
        "accountSid": "AC1",
        "callSid": ANN,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {},
    },
}
STOP = {"event": "stop", "sequenceNumber": "2", "streamSid": "MZ1", "stop": {"accountSid": "AC1", "callSid": ANN}}


class Peer:
    """The other end of a socket, as ASGI shows it; `reads` is cleared when it stops reading."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[Message] = asyncio.Queue()
        self.heard: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self.tried = asyncio.Event()
        self.closes = True
        self.gone = False
        self.says.put_nowait({"type": "websocket.connect"})

    def socket(self) -> WebSocket:
        return WebSocket({"type": "websocket", "path": "/", "headers": []}, self.says.get, self._take)

    def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self.says.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    def vanish(self) -> None:
        self.gone = True
        self.says.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def _take(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            return
        self.tried.set()
        if self.gone:
            raise OSError("nobody is there")
        await self.reads.wait()
        if message["type"] == "websocket.close":
            self.close_code = message["code"]
            self.says.put_nowait({"type": "websocket.disconnect", "code": 1000})
        else:
            self.heard.append(json.loads(message["text"]))


class Line:
    """A call on a manager of its own, and the peer that it is connected with."""

    def __init__(self) -> None:
        settings = read_settings(engine="loopback", codec="loopback")
        self.board = CallManager(settings, lambda _: None, lambda: True)
        self.board.start_accepting(1, processing_s=0.0)
        reservation = self.board.reserve(ANN)
        assert reservation is not None
        call = self.board.claim(reservation.token)
        assert call is not None
        self.call: ActiveCall = call
        self.peer = Peer()

    def serve(self, blocked_after_s: float = GUARD_S, silent_after_s: float = GUARD_S) -> "asyncio.Task[None]":
        serving = run_media_socket(self.peer.socket(), self.call, self.board, blocked_after_s, silent_after_s)
        return asyncio.create_task(serving)

    async def live(self) -> None:
        """Begin the stream and wait until we know of it."""
        self.peer.say(CONNECTED, STARTED)
        while self.call.session.record.started_s is None:  # noqa: ASYNC110 - a turn of the loop, not a wait
            await asyncio.sleep(0)

    def send(self, *numbers: int) -> None:
        self.board.do(self.call, [SendAudio(bytes(160), f"0:{number}", number) for number in numbers])

    @property
    def end(self) -> tuple[EndReason | None, int]:
        return self.call.session.record.end, self.board.free_slots


async def over(serving: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(GUARD_S):
        await serving


async def test_what_the_session_sends_goes_out_in_order_and_the_socket_closes_when_the_caller_stops() -> None:
    line = Line()
    serving = line.serve()
    await line.live()
    line.send(2, 3)
    line.board.do(line.call, [ClearAudio()])
    while len(line.peer.heard) < 6:  # noqa: ASYNC110 - turns of the loop
        await asyncio.sleep(0)
    line.peer.say(STOP)
    await over(serving)
    kinds = [(message["event"], message.get("mark", {}).get("name")) for message in line.peer.heard]
    assert kinds == [
        ("mark", "0:1"),
        ("media", None),
        ("mark", "0:2"),
        ("media", None),
        ("mark", "0:3"),
        ("clear", None),
    ]
    assert all(message["streamSid"] == "MZ1" for message in line.peer.heard)
    assert line.peer.close_code == 1000
    assert line.end == (EndReason.CALLER_HUNG_UP, 1)


async def test_a_peer_that_stops_reading_ends_the_call() -> None:
    line = Line()
    serving = line.serve(NO_PATIENCE_S)
    await line.live()
    line.peer.reads.clear()
    line.send(1)
    await over(serving)
    assert line.end == (EndReason.SOCKET_BLOCKED, 1)
    assert line.peer.heard == []


async def test_while_the_peer_does_not_read_what_it_says_is_heard() -> None:
    line = Line()
    serving = line.serve()
    await line.live()
    line.peer.reads.clear()
    line.send(1)
    async with asyncio.timeout(GUARD_S):
        await line.peer.tried.wait()
    line.peer.say({**STOP, "event": "dtmf", "dtmf": {"track": "inbound_track", "digit": "5"}})
    while not line.call.session.record.counts["dtmf"]:  # noqa: ASYNC110 - turns of the loop
        await asyncio.sleep(0)
    line.peer.reads.set()
    line.peer.say({**STOP, "sequenceNumber": "3"})
    await over(serving)
    assert line.end == (EndReason.CALLER_HUNG_UP, 1)


async def test_a_peer_that_reads_nothing_cannot_keep_the_socket_open_when_the_call_is_over() -> None:
    line = Line()
    line.peer.reads.clear()
    serving = line.serve(NO_PATIENCE_S)
    await line.live()
    line.board.end(line.call, EndReason.SHUTDOWN)
    await over(serving)
    assert line.end == (EndReason.SHUTDOWN, 1)
    assert line.peer.close_code is None


async def test_a_peer_that_vanishes_in_mid_sentence_ends_the_call() -> None:
    line = Line()
    serving = line.serve()
    await line.live()
    line.peer.vanish()
    line.send(1, 2)
    await over(serving)
    assert line.end == (EndReason.SOCKET_LOST, 1)


async def test_a_peer_from_which_nothing_comes_any_more_is_gone() -> None:
    line = Line()
    await over(line.serve(silent_after_s=NO_PATIENCE_S))
    assert line.end == (EndReason.SOCKET_LOST, 1)
    assert line.call.session.record.detail == "no message for 0 s"
    assert line.peer.close_code == 1000


@pytest.mark.parametrize(
    ("close", "detail"),
    [
        ({"code": 1006}, "close code 1006"),
        ({"code": 1009, "reason": "frame is too large"}, "close code 1009: frame is too large"),
    ],
)
async def test_a_close_is_kept_with_its_code_and_reason(close: dict[str, Any], detail: str) -> None:
    line = Line()
    serving = line.serve()
    line.peer.says.put_nowait({"type": "websocket.disconnect", **close})
    await over(serving)
    assert line.end == (EndReason.SOCKET_LOST, 1)
    assert line.call.session.record.detail == detail


async def test_a_peer_that_breaks_the_protocol_is_hung_up_on() -> None:
    line = Line()
    serving = line.serve()
    line.peer.say(STARTED)
    await over(serving)
    assert line.end == (EndReason.PROTOCOL, 1)
    assert line.peer.close_code == 1000


async def test_a_mistake_of_ours_ends_the_call_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    monkeypatch.setattr(line.call.session, "receive", lambda *_: 1 / 0)
    serving = line.serve()
    line.peer.say(CONNECTED)
    await over(serving)
    assert line.end == (EndReason.INTERNAL, 1)
