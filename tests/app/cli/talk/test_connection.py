"""Conversations with servers of every kind, over sockets of loopback."""

import asyncio
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from rich.console import Console
from websockets.asyncio.client import connect

from app.cli.talk.connection import converse
from app.cli.talk.screen import Screen
from app.cli.talk.sound import FileSound, TalkFailed
from app.server.remote.connection import Target
from tests.app.cli.talk.moshi_server import MoshiServer, one_message, serving
from tests.app.cli.talk.tones import pages, tone, tone_s
from workers.messages import Pcm

LENGTH_S = 0.8
STEP_S = 0.05
METADATA = b'\x04{"text_temperature": 0.8}'
EARLY_SOUND = b"\x01" + b"".join(pages(0.4))


def halves(_: int, ogg: bytes) -> Sequence[bytes]:
    """As PersonaPlex, which sends whatever is there."""
    return [b"\x01" + ogg[:50], b"\x01" + ogg[50:]]


def two_steps() -> Callable[[int, bytes], Sequence[bytes]]:
    """As PyTorch and MLX: one message for a frame of 80 ms, two pages."""
    kept: list[bytes] = []

    def change(step: int, ogg: bytes) -> Sequence[bytes]:
        kept.append(ogg)
        if step % 2 == 0:
            return []
        message = b"\x01" + b"".join(kept)
        kept.clear()
        return [message, b"\x02 word"]

    return change


def other_kinds(step: int, ogg: bytes) -> Sequence[bytes]:
    kinds: Iterator[int] = itertools.chain(range(3, 10), (255,))
    return [*(bytes((kind,)) + b"\xff\x00" for kind in kinds if kind != 5), b"", b"\x00again", b"\x01" + ogg]


def no_headers(step: int, ogg: bytes) -> Sequence[bytes]:
    return one_message(step, ogg) if step > 1 else []


def lost_sync(step: int, ogg: bytes) -> Sequence[bytes]:
    return one_message(step, ogg[:40] + ogg[60:] + b"OggS\x00garbage" if step == 5 else ogg)


class PatientSound(FileSound):
    """Time stands still while the machine does: at most `STEP_S` pass from one look to the next."""

    def __init__(self, said: Pcm, length_s: float) -> None:
        super().__init__(said, length_s)
        self._passed_s, self._looked_s = 0.0, -math.inf

    def start(self, now: float) -> None:
        super().start(self._passed_s)

    def read(self, now: float) -> Pcm:
        self._passed_s += min(now - self._looked_s, STEP_S)
        self._looked_s = now
        return super().read(self._passed_s)


SERVERS: dict[str, Callable[[], MoshiServer]] = {
    "PyTorch and MLX": lambda: MoshiServer(change=two_steps()),
    "Rust": lambda: MoshiServer(before=[METADATA], handshake=bytes(9)),
    "PersonaPlex": lambda: MoshiServer(change=halves),
    "sound and text before the handshake": lambda: MoshiServer(before=[EARLY_SOUND, b"\x02 early", b"\x06"]),
    "other kinds, a second handshake": lambda: MoshiServer(change=other_kinds),
    "no headers": lambda: MoshiServer(change=no_headers),
    "Ogg out of step": lambda: MoshiServer(change=lost_sync),
}


async def talk(server: MoshiServer, sound: FileSound, query: str = "") -> tuple[bool, str]:
    """Return whether the conversation lasted to its end, and what was shown."""
    console = Console(width=80, file=io.StringIO(), record=True)
    screen = Screen(console, console.status(""))
    whole = await converse(Target(f"{server.url}/api/chat{query}", server.url), sound, screen)
    screen.finish()
    return whole, console.export_text()


@pytest.mark.parametrize("kind", SERVERS)
async def test_the_tone_comes_back(kind: str) -> None:
    sound = PatientSound(tone(LENGTH_S - 0.4), LENGTH_S)
    async with serving(SERVERS[kind]()) as server:
        server.ready.set()
        whole, _ = await talk(server, sound)
    assert whole
    assert server.early == 0
    assert {message.data[0] for message in server.received if isinstance(message.data, bytes)} == {1}
    assert tone_s(server.heard_samples) > 0.25
    assert sound.first_sound_s is not None
    assert sound.first_sound_s > 0.0


async def test_nothing_is_sent_before_the_handshake() -> None:
    sound = PatientSound(tone(0.2), 0.4)
    async with serving(MoshiServer(before=[METADATA])) as server:
        talking = asyncio.create_task(talk(server, sound))
        await server.connected.wait()
        await asyncio.wait({talking}, timeout=0.3)
        assert sound.length_s == 0
        server.ready.set()
        whole, _ = await talking
    assert whole
    assert server.early == 0


async def test_words_and_errors_are_shown_but_not_those_before_the_handshake() -> None:
    def words(step: int, ogg: bytes) -> Sequence[bytes]:
        return {1: [b"\x02 Hello"], 2: [b"\x02 there,\x1b[2J"], 3: [b"\x05a little late"]}.get(step, [])

    async with serving(MoshiServer(before=[b"\x02 early"], change=words)) as server:
        server.ready.set()
        _, shown = await talk(server, PatientSound(tone(0.4), 0.4))
    assert "Hello there,[2J" in shown
    assert "the server says: a little late" in shown
    assert "early" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (MoshiServer(status=503), "slots"),
        (MoshiServer(status=403), "--token"),
        (MoshiServer(status=404), "no chat"),
        (MoshiServer(status=400, answer="text_topk: too large\n"), "text_topk: too large"),
        (MoshiServer(status=299), "HTTP 299"),
        (MoshiServer(ends_after=0, code=1013), "slots"),
        (MoshiServer(ends_after=5, code=None), "broke"),
        (MoshiServer(ends_after=5, code=1011, reason=b"out of memory\x1b[2J"), "1011 out of memory[2J"),
        (MoshiServer(needs=frozenset({"voice_prompt"}), code=1000), "before it was ready"),
    ],
)
async def test_what_is_wrong_is_one_line(server: MoshiServer, why: str) -> None:
    async with serving(server):
        server.ready.set()
        with pytest.raises(TalkFailed, match=r"\A[^\n\x1b]+\Z") as raised:
            await talk(server, PatientSound(tone(2.0), 2.0))
    assert why in str(raised.value)


async def test_the_server_may_end_the_conversation() -> None:
    async with serving(MoshiServer(ends_after=5)) as server:
        server.ready.set()
        whole, _ = await talk(server, PatientSound(tone(2.0), 2.0))
    assert not whole


async def test_nobody_answers() -> None:
    async with serving(MoshiServer()) as server:
        pass
    with pytest.raises(TalkFailed, match="not reached"):
        await talk(server, PatientSound(tone(0.2), 0.4))


async def test_a_redirect_takes_no_token_elsewhere() -> None:
    async with serving(MoshiServer()) as other:
        other.ready.set()
        async with serving(MoshiServer(status=302, location=f"{other.url}/api/chat")) as server:
            with pytest.raises(TalkFailed, match="redirect"):
                await talk(server, PatientSound(tone(0.2), 0.4))
    assert not other.connected.is_set()


async def test_parameters_reach_the_server() -> None:
    needs, deadly = frozenset({"voice_prompt", "text_prompt"}), frozenset({"seed"})
    async with serving(MoshiServer(needs=needs, deadly=deadly)) as server:
        server.ready.set()
        whole, _ = await talk(server, PatientSound(tone(0.2), 0.4), "?voice_prompt=NATF0.pt&text_prompt=You+are+kind.")
    assert whole
    assert server.query == {"voice_prompt": "NATF0.pt", "text_prompt": "You are kind."}


async def test_a_client_sends_no_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rust's server reads a ping's payload as a message; `websockets` sends one every 20 s unless told otherwise."""
    monkeypatch.setattr("app.server.remote.connection.connect", partial(connect, ping_interval=0.05))
    async with serving(MoshiServer()) as server:
        server.ready.set()
        whole, _ = await talk(server, PatientSound(tone(0.2), 0.4))
    assert whole
    assert {message.type.name for message in server.received[:-1]} == {"BINARY"}
