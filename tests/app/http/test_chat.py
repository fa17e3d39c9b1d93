"""The chat socket against a client whose messages are in a queue, and workers that are played by the test."""

import asyncio
import json
import time
from collections.abc import Callable

import numpy as np
import pytest
from fastapi import WebSocket
from starlette.types import Message

from app.audio.opus import PcmCodec
from app.calls.active_call import ActiveCall
from app.calls.admission import VoiceRequest
from app.calls.chat_protocol import Kind
from app.calls.end_reason import EndReason
from app.calls.manager import CallManager
from app.calls.session import CallState
from app.config import read_settings
from app.http.chat import BURST_S, READ_SPEED, AudioBudget, ChatSocket
from app.twilio.events import CallSid
from tests.app.calls.front import settle
from tests.processes.pipeline import PATIENCE_S
from workers import messages
from workers.messages import Close, Frame, Open

ANN = CallSid("chat-ann")
GREETING = 3
ASKED = VoiceRequest(chat=True, sampling=(("text_top_k", 9),), seed=5)


class Line:
    """A chat on a manager of its own; `sent` went to the workers, `heard` to the client.

    With a `clock` time is the event loop's; `after` is a chat that had the slot before.
    """

    def __init__(
        self,
        greeting: int = GREETING,
        clock: Callable[[], float] = time.monotonic,
        after: "Line | None" = None,
        call_sid: CallSid = ANN,
        request: VoiceRequest = ASKED,
        changes: dict[str, object] | None = None,
    ) -> None:
        self.sent: list[messages.Message] = after.sent if after else []
        settings = read_settings(greeting_frames=greeting, twilio_account_sid="AC" + "0" * 32, **(changes or {}))
        self.manager: CallManager = (
            after.manager if after else CallManager(settings, self.sent.append, lambda: True, clock=clock)
        )
        if not after:
            self.manager.start_accepting(1, processing_s=0.0)
        self.texts = self.manager.events.subscribe(call_sid, pieces=True)
        reservation = self.manager.reserve(call_sid, request)
        assert reservation is not None
        call = self.manager.claim(reservation.token)
        assert call is not None
        self.call: ActiveCall = call
        self.says: asyncio.Queue[Message] = asyncio.Queue()
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.says.put_nowait({"type": "websocket.connect"})
        websocket = WebSocket({"type": "websocket", "path": "/", "headers": []}, self.says.get, self.heard.put)
        account = settings.twilio.account_sid
        chat = ChatSocket(websocket, call, PcmCodec(), self.texts, {"lm_model_file": "x"}, account)
        self.serving = asyncio.create_task(chat.run())

    def say(self, data: bytes) -> None:
        self.says.put_nowait({"type": "websocket.receive", "bytes": data})

    def speak(self, seq: int, text: str = "") -> None:
        """Moshi's frame of a step."""
        slot, epoch = self.call.reservation.slot, self.call.reservation.epoch
        pcm = None if seq == 0 else np.full(1_920, 0.1 * seq, np.float32)
        self.manager.handle_message(Frame(slot, epoch, seq, pcm, text))

    async def next(self) -> Message:
        return await asyncio.wait_for(self.heard.get(), PATIENCE_S)

    async def next_kinds(self, count: int) -> list[Kind]:
        return [Kind((await self.next())["bytes"][0]) for _ in range(count)]

    async def over(self, reason: EndReason) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.serving
        assert self.call.session.record.end is reason
        assert isinstance(self.sent[-1], Close)
        assert self.manager.free_slots == 1


async def test_the_handshake_waits_for_moshis_first_sound_and_comes_before_everything() -> None:
    line = Line()
    assert (await line.next())["type"] == "websocket.accept"
    line.say(Kind.AUDIO.message(bytes(48_000)))
    line.speak(0, " Hel")
    await settle()
    assert line.heard.empty()
    assert line.call.session.state is CallState.CONNECTED
    line.speak(1, "lo")
    first, second = await line.next(), await line.next()
    assert first["bytes"] == b"\0"
    assert json.loads(second["bytes"][1:]) == {"lm_model_file": "x"}
    rest = [(await line.next())["bytes"] for _ in range(4)]
    assert [one[1:].decode() for one in rest if one[0] == Kind.TEXT] == [" Hel", "lo"]
    assert [len(one) for one in rest if one[0] == Kind.AUDIO] == [1 + 2 * 960] * 2
    line.says.put_nowait({"type": "websocket.disconnect", "code": 1005})
    await line.over(EndReason.CALLER_HUNG_UP)


async def test_sampling_and_seed_reach_the_engine() -> None:
    line = Line()
    opening = line.sent[0]
    assert isinstance(opening, Open)
    assert (dict(opening.persona.sampling), opening.seed) == ({"text_top_k": 9}, 5)
    line.call.end(EndReason.OPERATOR)
    await line.over(EndReason.OPERATOR)


async def test_a_chat_that_ends_before_its_handshake_gets_none() -> None:
    line = Line()
    await line.next()
    line.says.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await line.over(EndReason.SOCKET_LOST)
    assert (await line.next())["type"] == "websocket.close"


async def test_what_moshi_has_said_is_heard_when_an_operator_hangs_up() -> None:
    line = Line(greeting=2)
    line.speak(0)
    line.speak(1)
    assert (await line.next())["type"] == "websocket.accept"
    assert await line.next_kinds(3) == [Kind.HANDSHAKE, Kind.METADATA, Kind.AUDIO]
    assert line.manager.hang_up(ANN)
    assert await line.next_kinds(1) == [Kind.AUDIO], "the second page"
    assert await line.next() == {"type": "websocket.close", "code": 1000, "reason": "an operator hung up"}
    await line.over(EndReason.OPERATOR)


@pytest.mark.parametrize(
    ("end", "code"), [(EndReason.SHUTDOWN, 1012), (EndReason.WORKER_LOST, 1012), (EndReason.TIME_LIMIT, 1000)]
)
async def test_a_client_is_told_the_end_and_whether_it_may_call_again(end: EndReason, code: int) -> None:
    line = Line(greeting=0)
    assert (await line.next())["type"] == "websocket.accept"
    assert await line.next_kinds(2) == [Kind.HANDSHAKE, Kind.METADATA]
    line.call.end(end)
    assert await line.next() == {"type": "websocket.close", "code": code, "reason": str(end)}
    await line.over(end)


@pytest.mark.parametrize("audio_s", [0.0, 0.02, 1.0, 30.0])
def test_a_budget_lets_a_burst_in_and_then_no_more_than_twice_the_speed_of_speech(audio_s: float) -> None:
    now = read_s = 0.0
    budget = AudioBudget(now)
    for _ in range(10_000):
        now += budget.spend(audio_s, now)
        read_s += audio_s
    assert read_s <= BURST_S + READ_SPEED * now + audio_s


def test_speech_never_waits() -> None:
    budget = AudioBudget(0.0)
    assert not any(budget.spend(0.02, 0.02 * number) for number in range(10_000))
    assert budget.spend(3.0, 203.0) == 0.0, "a stall and its burst"
