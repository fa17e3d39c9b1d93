"""Two calls at once whose peers say anything at all, each with its own sound.

Everything is real but the workers, who echo, the peers, and the clock, which is the loop's virtual one. Each call's
caller says nothing but one level, positive or negative, large or small: its mark. What is heard on its socket must lie
between silence and that mark, give or take what filters do at an edge; so another call's sound is known by its sign or
size, whether it comes from the call beside it or from one that had the slot before.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import WebSocket
from hypothesis import strategies as st
from starlette.types import Message

from app.audio import mulaw
from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from app.calls.manager import CallManager
from app.http.media import run_media_socket
from app.twilio.events import CallSid
from app.twilio.wire import read_payload, write_payload
from tests.app.twilio.transcript import changed
from tests.fuzz.clock import VirtualLoop
from tests.service.front import front_settings
from tests.service.phone import ACCOUNT, new_call_sid
from workers import messages
from workers.messages import Failed, Frame, Stage

CALLS = 2
MARKS = (24_000, -24_000, 6_000, -6_000, 1_500, -1_500)
EDGE = 0.4
"""By how much of its height a filter overshoots an edge, at the very most, twice over."""
PATIENCE_S = 100.0
PIPELINE_HOLDS = 64


@dataclass(frozen=True, slots=True)
class Say:
    """One of the peers says something; `make` writes it, given the call and how many messages it has sent."""

    who: int
    make: Callable[["Peer"], str | bytes]


@dataclass(frozen=True, slots=True)
class Speak:
    """One of the callers speaks their mark for so many packets."""

    who: int
    packets: int
    skipped_ms: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Echo:
    """So many frames come back from the workers, the oldest first or the newest."""

    frames: int
    newest: bool = False


@dataclass(frozen=True, slots=True)
class Break:
    """A stage can not go on with one of the calls, or has died."""

    who: int
    dead: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """One of the peers is gone without a word."""

    who: int


Deed = Say | Speak | Wait | Echo | Break | Leave


class Peer:
    """Twilio's end of one call's socket, as ASGI shows it."""

    def __init__(self, call_sid: CallSid, mark: int, counts: Counter[str]) -> None:
        self.call_sid, self.stream_sid, self.mark = call_sid, f"MZ{call_sid}", mark
        self.sequence = 0
        self.spoken_ms = 0
        self.over = False
        self._counts = counts
        self._says: asyncio.Queue[Message] = asyncio.Queue()
        self._says.put_nowait({"type": "websocket.connect"})

    def socket(self) -> WebSocket:
        return WebSocket({"type": "websocket", "path": "/", "headers": []}, self._says.get, self._receive)

    def say(self, said: str | bytes) -> None:
        self._counts["messages"] += 1
        self.sequence += 1
        self._says.put_nowait({"type": "websocket.receive", "text" if isinstance(said, str) else "bytes": said})

    def leave(self) -> None:
        self._says.put_nowait({"type": "websocket.disconnect", "code": 1006})

    def message(self, kind: str) -> str:
        """Write a message of that kind as it should be now."""
        if kind == "connected":
            return json.dumps({"event": kind, "protocol": "Call", "version": "1.0.0"})
        bodies: dict[str, dict[str, Any]] = {
            "start": {
                "streamSid": self.stream_sid,
                "accountSid": ACCOUNT,
                "callSid": self.call_sid,
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": {"from": "+15550100001"},
            },
            "media": {"track": "inbound", "chunk": "1", "timestamp": str(self.spoken_ms), "payload": self._sound(160)},
            "dtmf": {"track": "inbound_track", "digit": "7#"[self.sequence % 4 == 0]},
            "mark": {"name": f"0:{self.sequence}"},
            "stop": {"accountSid": ACCOUNT, "callSid": self.call_sid},
        }
        envelope = {"event": kind, "sequenceNumber": str(self.sequence), "streamSid": self.stream_sid}
        return json.dumps({**envelope, kind: bodies[kind]})

    def speak(self, packets: int, skipped_ms: int) -> None:
        self.spoken_ms += skipped_ms
        for _ in range(packets):
            self.say(self.message("media"))
            self.spoken_ms += 20

    def _sound(self, samples: int) -> str:
        return write_payload(mulaw.encode(np.full(samples, self.mark, np.int16)))

    async def _receive(self, message: Message) -> None:
        match message["type"]:
            case "websocket.close":
                self.over = True
                self.leave()
            case "websocket.send":
                self._check(json.loads(message["text"]))

    def _check(self, message: dict[str, Any]) -> None:
        assert message["streamSid"] == self.stream_sid, "a message of another call"
        if message["event"] == "media":
            samples = mulaw.decode(read_payload(message["media"], "payload")).astype(int) / self.mark
            assert samples.min() >= -EDGE, "sound of another call"
            assert samples.max() <= 1 + EDGE, "sound of another call"
            self._counts["packets_heard"] += len(samples) // 160
            self._counts["packets_heard_loud"] += bool(samples.max() > 0.5)


@dataclass
class _OnAir:
    peer: Peer
    call: ActiveCall
    serving: "asyncio.Task[None]"


@dataclass
class Exchange:
    """One manager for all that is tried, as in a service that runs for weeks; `counts` what was tried and heard."""

    loop: VirtualLoop = field(default_factory=VirtualLoop)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        settings = front_settings(max_calls=CALLS, hangup_digit="#", max_call_seconds=10)
        self.manager = CallManager(settings, self._send, lambda: True, clock=self.loop.time)
        self.manager.start_accepting(CALLS, processing_s=0.01)
        self._frames: deque[Frame] = deque(maxlen=PIPELINE_HOLDS)
        self._on: dict[int, _OnAir] = {}
        self._placed = 0

    def run(self, deeds: list[Deed], begin: bool) -> None:
        """Do all this; each call begins as it should if `begin`. Raises what should never be."""
        self._placed = 0
        self.loop.run_until_complete(self._run(deeds, begin))
        assert self.loop.errors == []
        assert self.manager.free_slots == CALLS

    def close(self) -> None:
        self.loop.close()

    def _send(self, message: messages.Message) -> None:
        if isinstance(message, Frame):
            self._frames.append(message)

    async def _run(self, deeds: list[Deed], begin: bool) -> None:
        for deed in deeds:
            await self._do(deed, begin)
        await self._echo(PIPELINE_HOLDS, newest=False)
        for on_air in list(self._on.values()):
            on_air.peer.leave()
        await self._gather()
        assert not self._on

    async def _do(self, deed: Deed, begin: bool) -> None:
        match deed:
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Echo(frames, newest):
                await self._echo(frames, newest)
            case Say(who, make):
                peer = self._peer(who, begin)
                peer.say(make(peer))
            case Speak(who, packets, skipped_ms):
                self._peer(who, begin).speak(packets, skipped_ms)
            case Leave(who):
                self._peer(who, begin).leave()
            case Break(who, dead):
                self._break(who, dead)
        await self._gather(wait=False)

    def _peer(self, who: int, begin: bool) -> Peer:
        """Return the peer of a call that is on; place one if none is."""
        on_air = self._on.get(who)
        if on_air and on_air.call.session.record.end is None:
            return on_air.peer
        reservation = self.manager.reserve(new_call_sid())
        assert reservation is not None
        call = self.manager.claim(reservation.token)
        assert call is not None
        peer = Peer(reservation.call_sid, MARKS[self._placed % len(MARKS)], self.counts)
        self._placed += 1
        serving = self.loop.create_task(run_media_socket(peer.socket(), call))
        if on_air:
            self._on[-1 - self._placed] = on_air  # its socket may be closing still
        self._on[who] = _OnAir(peer, call, serving)
        self.counts["calls"] += 1
        if begin:
            peer.say(peer.message("connected"))
            peer.say(peer.message("start"))
        return peer

    async def _echo(self, frames: int, newest: bool) -> None:
        for _ in range(min(frames, len(self._frames))):
            self.manager.handle_message(self._frames.pop() if newest else self._frames.popleft())
        await asyncio.sleep(0.01)

    def _break(self, who: int, dead: bool) -> None:
        if dead:
            self.manager.on_pipeline_lost("step: killed by SIGKILL")
            self.manager.on_pipeline_ready()
        elif on_air := self._on.get(who):
            held = on_air.call.reservation
            self.manager.handle_message(Failed(held.slot, held.epoch, Stage.DECODE, "broken"))

    async def _gather(self, wait: bool = True) -> None:
        """Forget the calls whose socket is closed, and raise what they raised."""
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(1_000 if wait else 3):
                for who, on_air in list(self._on.items()):
                    if on_air.serving.done():
                        del self._on[who]
                        on_air.serving.result()
                        assert on_air.call.session.record.end is not EndReason.INTERNAL
                        self.counts[f"ended: {on_air.call.session.record.end}"] += 1
                if not self._on:
                    return
                await asyncio.sleep(0.1 if wait else 0)


KINDS = ("connected", "start", "media", "dtmf", "mark", "stop")
FIELDS_OF: dict[str, tuple[str, ...]] = {
    "connected": ("protocol", "version"),
    "start": (
        *("start.callSid", "start.accountSid", "start.streamSid", "start.tracks"),
        *("start.mediaFormat", "start.mediaFormat.sampleRate", "start.customParameters"),
    ),
    "media": tuple(f"media.{name}" for name in ("track", "chunk", "timestamp", "payload")),
    "dtmf": ("dtmf.digit", "dtmf.track"),
    "mark": ("mark.name",),
    "stop": ("stop.callSid",),
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
WHO = st.integers(0, CALLS - 1)


def _as_it_should_be(kind: str) -> Callable[[Peer], str]:
    return lambda peer: peer.message(kind)


def _damaged(kind: str, path: str, value: object) -> Callable[[Peer], str]:
    return lambda peer: changed(peer.message(kind), path, value)


def _cut(kind: str, share: float, rest: bool) -> Callable[[Peer], str]:
    def make(peer: Peer) -> str:
        text = peer.message(kind)
        at = round(share * len(text))
        return text[at:] if rest else text[:at]

    return make


def _just(said: str | bytes) -> Callable[[Peer], str | bytes]:
    return lambda _: said


@st.composite
def _damage(draw: st.DrawFn) -> Callable[[Peer], str | bytes]:
    kind = draw(st.sampled_from(KINDS))
    envelope = ("event",) if kind == "connected" else ("event", "sequenceNumber", "streamSid", kind)
    return _damaged(kind, draw(st.sampled_from(envelope + FIELDS_OF[kind])), draw(ANY_JSON | st.just(...)))


WORDS: st.SearchStrategy[Callable[[Peer], str | bytes]] = st.one_of(
    st.sampled_from(KINDS).map(_as_it_should_be),
    _damage(),
    st.builds(_cut, st.sampled_from(KINDS), st.floats(0, 1), st.booleans()),
    (st.text(max_size=100) | st.binary(max_size=100) | ANY_JSON.map(json.dumps)).map(_just),
)
SPEAK = st.builds(Speak, WHO, st.integers(1, 12), st.sampled_from([0, 0, 0, 20, 500, 5_000, -200]))
DEEDS: st.SearchStrategy[list[Deed]] = st.lists(
    st.one_of(
        st.builds(Say, WHO, WORDS),
        SPEAK,
        SPEAK,
        st.builds(Wait, st.sampled_from([0.0, 0.02, 0.08, 0.3, 12.0])),
        st.builds(Echo, st.integers(1, 8), st.booleans()),
        st.builds(Echo, st.integers(1, 8)),
        st.builds(Break, WHO, st.booleans()),
        st.builds(Leave, WHO),
    ),
    min_size=1,
    max_size=30,
)
