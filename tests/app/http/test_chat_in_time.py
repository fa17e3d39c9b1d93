"""Chats in virtual time: faults of Moshi's other servers that this one must not have, and the limits of every call.

The client is a queue of messages.
"""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from app.calls.admission import VoiceRequest
from app.calls.chat_protocol import Kind
from app.calls.end_reason import EndReason
from app.twilio.events import CallSid
from tests.app.calls.front import settle
from tests.app.http.test_chat import Line
from tests.fuzz.clock import VirtualLoop
from workers.messages import Frame, Open

BOB = CallSid("chat-bob")
LOUD_S = np.full(24_000, 16_000, "<i2").tobytes()
"""A second of a client that shouts."""
CLIENT_LEAVES_AFTER_S = 10.0
"""Kyutai's web client closes itself when no message has come for so long."""


def run(story: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(story(loop))
        assert loop.errors == []
    finally:
        loop.close()


async def begun(line: Line) -> Line:
    """Let the greeting begin; pass over what the client hears of it."""
    line.speak(0)
    line.speak(1)
    await line.next()
    assert await line.next_kinds(3) == [Kind.HANDSHAKE, Kind.METADATA, Kind.AUDIO]
    return line


def frames(line: Line) -> list[Frame]:
    """What the workers have got of the client's audio."""
    return [one for one in line.sent if isinstance(one, Frame)]


async def hang_up(line: Line) -> None:
    line.says.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await line.over(EndReason.CALLER_HUNG_UP)


def test_a_client_that_hears_nothing_is_pinged_before_it_leaves() -> None:
    async def story(loop: VirtualLoop) -> None:
        line = await begun(Line(clock=loop.time))
        heard_s = [loop.time()]
        for _ in range(5):
            message = await line.next()
            heard_s.append(loop.time())
            if len(heard_s) > 2:
                assert message["bytes"] == b"\6", "without payload"
        assert all(1.0 < after - before < CLIENT_LEAVES_AFTER_S / 2 for before, after in pairwise(heard_s[1:]))
        line.speak(2)
        assert await line.next_kinds(2) == [Kind.AUDIO] * 2
        await hang_up(line)

    run(story)


def test_audio_before_the_handshake_is_neither_heard_nor_kept_as_latency() -> None:
    async def story(loop: VirtualLoop) -> None:
        line = Line(clock=loop.time)
        for _ in range(3):
            line.say(Kind.AUDIO.message(LOUD_S))
        await settle()
        await begun(line)
        await asyncio.sleep(2.0)
        assert len(frames(line)) > 10, "silence in place of what does not come"
        assert not any(frame.pcm.any() for frame in frames(line) if frame.pcm is not None)
        for _ in range(3):
            line.say(Kind.AUDIO.message(LOUD_S[:3_840]))
            await asyncio.sleep(0.08)
        assert any(frame.pcm.any() for frame in frames(line)[-3:] if frame.pcm is not None), "and now it is"
        await hang_up(line)

    run(story)


def test_who_has_the_slot_next_inherits_nothing() -> None:
    async def story(loop: VirtualLoop) -> None:
        first = await begun(Line(clock=loop.time))
        first.say(Kind.AUDIO.message(LOUD_S))
        first.speak(2, " a secret")
        await asyncio.sleep(1.0)
        late = Frame(first.call.reservation.slot, first.call.reservation.epoch, 3, np.ones(1_920, np.float32), " late")
        await hang_up(first)
        sent = len(first.sent)
        second = Line(clock=loop.time, after=first, call_sid=BOB, request=VoiceRequest(chat=True))
        opening = second.sent[sent]
        assert isinstance(opening, Open)
        assert opening.slot == first.call.reservation.slot
        assert (opening.persona.sampling, opening.seed, opening.persona.prompt) == ((), None, "")
        await begun(second)
        second.manager.handle_message(late)
        second.speak(2)
        await asyncio.sleep(1.0)
        heard = [second.heard.get_nowait()["bytes"] for _ in range(second.heard.qsize())]
        assert Kind.TEXT not in [Kind(one[0]) for one in heard]
        pages = [np.frombuffer(one[1:], "<i2") for one in heard if one[0] == Kind.AUDIO]
        assert np.concatenate(pages).max() <= 0.2 * 32_768 + 1, "its own frames alone"
        assert not any(one.pcm.any() for one in second.sent[sent:] if isinstance(one, Frame) and one.pcm is not None)
        await hang_up(second)

    run(story)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"max_call_seconds": 20}, EndReason.TIME_LIMIT), ({"idle_seconds": 20}, EndReason.IDLE)],
    ids=["length", "silence"],
)
def test_a_chat_has_the_limits_of_every_call(limit: dict[str, object], reason: EndReason) -> None:
    async def story(loop: VirtualLoop) -> None:
        began_s = loop.time()
        line = await begun(Line(clock=loop.time, changes=limit))
        await line.over(reason)
        assert 20.0 <= loop.time() - began_s < 25.0

    run(story)
