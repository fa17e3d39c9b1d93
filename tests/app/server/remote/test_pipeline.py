"""Calls at servers of every kind, right and wrong, over sockets of loopback. The pace is that of silence filled in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pytest

from app.calls.chat_leg import PACKET_SAMPLES
from app.calls.speech_backend import BackendMessage, Moved
from app.config import read_settings
from app.server.remote.call import MOST_TEXT
from app.server.remote.pipeline import RemotePipeline
from app.server.remote.targets import Patience
from tests.app.cli.talk.moshi_server import MoshiServer, one_message, serving
from tests.app.cli.talk.test_connection import METADATA, SERVERS
from tests.app.cli.talk.test_tls import Certificate
from tests.app.cli.talk.tones import tone, tone_s
from tests.processes.pipeline import PATIENCE_S
from workers.messages import (
    FRAME_SAMPLES,
    CallPersona,
    Close,
    Epoch,
    Failed,
    Frame,
    Open,
    PreparePrompt,
    PromptMessage,
    PromptReady,
    PromptRefused,
    Said,
    Say,
    Slot,
)

T = TypeVar("T", Moved, Failed)
CALM = Patience(PATIENCE_S, PATIENCE_S, PATIENCE_S, PATIENCE_S, PATIENCE_S)
"""Of tests in which nothing is given up: a busy machine may stand still for a while."""
EPOCH = Epoch(7)
SPEECH = tone(0.8).reshape(-1, FRAME_SAMPLES)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - the pipeline tells nobody
            await asyncio.sleep(0.01)


@dataclass
class Calls:
    """The app's side: opens calls, speaks in them, gets what comes out."""

    pipeline: RemotePipeline = field(init=False)
    arrived: "asyncio.Queue[BackendMessage]" = field(default_factory=asyncio.Queue)
    prompts: "asyncio.Queue[PromptMessage]" = field(default_factory=asyncio.Queue)
    seq: int = 0

    def open(self, slot: int = 0, persona: CallPersona = CallPersona()) -> None:  # noqa: B008 - it is frozen
        self.pipeline.send(Open(Slot(slot), EPOCH, persona=persona))

    def say(self, slot: int = 0) -> None:
        self.pipeline.send(Frame(Slot(slot), EPOCH, self.seq, SPEECH[self.seq % len(SPEECH)]))
        self.seq += 1

    def begin(self) -> None:
        self.open()
        self.say()

    async def next(self) -> BackendMessage:
        return await asyncio.wait_for(self.arrived.get(), PATIENCE_S)

    async def frames(self, count: int, slot: int = 0) -> list[Frame]:
        """Wait for the sound of so many frames, and answer each 80 ms with a frame of the caller's."""
        heard: list[Frame] = []
        left = answered = count * FRAME_SAMPLES
        while left > 0:
            message = await self.next()
            assert isinstance(message, Frame), message
            assert message.epoch == EPOCH
            if message.slot == slot and message.pcm is not None:
                heard.append(message)
                left -= len(message.pcm)
                while answered - left >= FRAME_SAMPLES:
                    answered -= FRAME_SAMPLES
                    self.say(slot)
        return heard

    async def next_of(self, kind: type[T]) -> T:
        """Pass over frames."""
        while not isinstance(message := await self.next(), kind):
            assert isinstance(message, Frame), message
        return message

    async def until_up(self, *names: str) -> None:
        """Wait until these servers are up, and no others."""
        await until(lambda: [one.name for one in self.pipeline.servers if one.up] == list(names))


@asynccontextmanager
async def calling(*urls: str, patience: Patience = CALM, **settings: object) -> AsyncIterator[Calls]:
    calls = Calls()
    read = read_settings(engine="remote", moshi_servers=",".join(urls), **settings)
    calls.pipeline = RemotePipeline(read, calls.arrived.put_nowait, calls.prompts.put_nowait, patience)
    running = asyncio.create_task(calls.pipeline.run())
    await asyncio.wait_for(calls.pipeline.wait_ready(), PATIENCE_S)
    try:
        yield calls
    finally:
        running.cancel()
        await asyncio.wait({running}, timeout=PATIENCE_S)
        assert running.cancelled()


@asynccontextmanager
async def ready(*servers: MoshiServer) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(serving(server))
            server.ready.set()
        yield


def sound(frames: Sequence[Frame]) -> float:
    return tone_s(np.concatenate([frame.pcm for frame in frames if frame.pcm is not None]))


def name(server: MoshiServer) -> str:
    return f"{server.url}/api/chat"


def sent_kinds(server: MoshiServer) -> set[int]:
    return {message.data[0] for message in server.received if isinstance(message.data, bytes)}


def hangs(step: int, ogg: bytes) -> Sequence[bytes]:
    return one_message(step, ogg) if step < 20 else []


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_call_at_a_server_of_each_kind(kind: str) -> None:
    server = SERVERS[kind]()
    async with ready(server), calling(server.url) as calls:
        calls.begin()
        heard = await calls.frames(12)
        assert {len(frame.pcm) % PACKET_SAMPLES for frame in heard if frame.pcm is not None} == {0}
        assert sound(heard) > 0.4
        assert server.early == 0
        assert sent_kinds(server) == {1}


async def test_words_come_with_the_frames_and_those_before_the_handshake_do_not() -> None:
    def words(step: int, ogg: bytes) -> Sequence[bytes]:
        return [*({2: [b"\x02 Hello"], 4: [b"\x02 there"], 5: [b"\x05late"]}.get(step, [])), b"\x01" + ogg]

    server = MoshiServer(before=[METADATA, b"\x02 early"], change=words)
    async with ready(server), calling(server.url) as calls:
        calls.begin()
        assert "".join(frame.text for frame in await calls.frames(6)) == " Hello there"


async def test_words_without_any_sound_are_passed_on_and_do_not_pile_up() -> None:
    words = b"\x02" + 50 * b" word"
    server = MoshiServer(change=lambda step, ogg: [words])
    async with ready(server), calling(server.url) as calls:
        calls.open()
        calls.say()
        for _ in range(3):
            message = await calls.next()
            assert isinstance(message, Frame)
            assert (message.pcm, message.text) == (None, MOST_TEXT // 5 * " word")


async def test_nothing_is_sent_before_the_caller_speaks_and_silence_when_they_pause() -> None:
    server = MoshiServer()
    async with ready(server), calling(server.url) as calls:
        calls.begin()
        for _ in range(20):
            assert isinstance(await calls.next(), Frame)
        assert tone_s(server.heard_samples) < 0.1
        assert len(server.heard_samples) > 9 * FRAME_SAMPLES


async def test_frames_that_are_too_late_for_a_server_are_counted_also_in_a_call_that_is_over() -> None:
    server = MoshiServer()
    async with ready(server), calling(server.url) as calls:
        calls.begin()
        await calls.frames(1)
        for _ in range(9):
            calls.say()
        dropped = calls.pipeline.dropped
        calls.pipeline.send(Close(Slot(0), EPOCH))
        assert calls.pipeline.dropped == dropped > 0


async def test_the_least_busy_server_gets_the_call() -> None:
    one, two = MoshiServer(), MoshiServer()
    async with ready(one, two), calling(f"{one.url}?sessions=3", f"{two.url}?sessions=2") as calls:
        await calls.until_up(name(one), name(two))
        assert calls.pipeline.slots == 5
        for slot in range(5):
            calls.open(slot)
        await asyncio.sleep(0)
        assert [server.sessions for server in calls.pipeline.servers] == [3, 2]
        calls.pipeline.send(Close(Slot(4), EPOCH))
        await until(lambda: sum(server.sessions for server in calls.pipeline.servers) == 4)


@pytest.mark.parametrize(
    ("first", "why", "patience"),
    [
        (lambda: MoshiServer(ends_after=20, code=None), "broke", CALM),
        (lambda: MoshiServer(ends_after=20), "ended the conversation", CALM),
        (lambda: MoshiServer(ends_after=20, code=1011, reason=b"out of memory"), "out of memory", CALM),
        (lambda: MoshiServer(change=hangs), "nothing for", replace(CALM, silent_s=2.0)),
    ],
    ids=["dies", "ends", "fails", "hangs"],
)
async def test_a_call_whose_server_is_lost_goes_on_at_another(
    first: type[MoshiServer], why: str, patience: Patience
) -> None:
    one, two = first(), MoshiServer()
    async with ready(one, two), calling(one.url, two.url, patience=patience) as calls:
        await calls.until_up(name(one), name(two))
        calls.begin()
        await calls.frames(6)
        assert not two.heard
        moved = await calls.next_of(Moved)
        assert name(one) in moved.reason
        assert why in moved.reason
        calls.say()
        assert sound(await calls.frames(12)) > 0.4
        assert next(server.failures for server in calls.pipeline.servers) >= 1


async def test_a_single_server_that_ends_is_tried_again_for_the_same_call() -> None:
    """Rust's server ends each session after 360 s."""
    server = MoshiServer(ends_after=20, code=None)
    async with ready(server), calling(server.url) as calls:
        calls.begin()
        await calls.frames(6)
        await calls.next_of(Moved)
        calls.say()
        await calls.frames(3)


@pytest.mark.parametrize("turns", range(10))
async def test_a_call_that_ends_while_its_server_is_being_lost_takes_no_other_session(turns: int) -> None:
    """It ends so many turns of the event loop after the server's last sound."""
    closing: list[asyncio.Task[None]] = []

    async def close() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        calls.pipeline.send(Close(Slot(0), EPOCH))

    def closes(step: int, ogg: bytes) -> Sequence[bytes]:
        if step == 2:
            closing.append(asyncio.create_task(close()))
        return one_message(step, ogg)

    server = MoshiServer(ends_after=3, code=None, change=closes)
    async with ready(server), calling(server.url) as calls:
        calls.begin()
        await until(lambda: bool(closing))
        await closing[0]
        server.ends_after = None
        await calls.until_up(name(server))


async def test_a_server_that_loses_several_sessions_at_once_has_failed_once() -> None:
    lost: list[int] = []

    def breaks_three(step: int, ogg: bytes) -> Sequence[bytes]:
        if step == 20 and len(lost) < 3:
            lost.append(step)
            raise ConnectionError
        return one_message(step, ogg)

    server = MoshiServer(change=breaks_three)
    async with ready(server), calling(f"{server.url}?sessions=3") as calls:
        for slot in range(3):
            calls.open(slot)
            calls.say(slot)
        for _ in range(3):
            await calls.next_of(Moved)
        assert [server.failures for server in calls.pipeline.servers] == [1]


async def test_a_session_that_outlived_a_failure_of_its_server_shows_the_next_one() -> None:
    lost: list[int] = []

    def breaks_one_and_later_the_other(step: int, ogg: bytes) -> Sequence[bytes]:
        if len(lost) < 2 and step == (20, 60)[len(lost)]:
            lost.append(step)
            raise ConnectionError
        return one_message(step, ogg)

    server = MoshiServer(change=breaks_one_and_later_the_other)
    async with ready(server), calling(f"{server.url}?sessions=2") as calls:
        for slot in range(2):
            calls.open(slot)
            calls.say(slot)
        first = await calls.next_of(Moved)
        assert (await calls.next_of(Moved)).slot != first.slot
        assert [server.failures for server in calls.pipeline.servers] == [2]


LOCKED = replace(CALM, ready_s=0.3)


async def test_a_locked_server_is_set_aside_until_it_answers() -> None:
    locked, free = MoshiServer(), MoshiServer()
    async with serving(locked), ready(free), calling(locked.url, free.url, patience=LOCKED) as calls:
        await calls.until_up(name(free))
        calls.begin()
        await calls.frames(3)
        locked.ready.set()
        await calls.until_up(name(locked), name(free))


async def test_a_server_that_is_locked_when_a_call_comes_is_left_for_another() -> None:
    one, two = MoshiServer(), MoshiServer()
    async with ready(one, two), calling(one.url, two.url, patience=LOCKED) as calls:
        await calls.until_up(name(one), name(two))
        one.ready.clear()
        calls.begin()
        heard = await calls.frames(3)
        assert heard, "no call has moved that Moshi had not spoken in"
        assert not one.heard


async def test_without_a_server_the_call_ends_with_a_reason() -> None:
    server = MoshiServer()
    async with ready(server), calling(server.url, patience=replace(CALM, free_s=1.5)) as calls:
        server.status = 503
        calls.begin()
        failed = await calls.next_of(Failed)
        assert "no Moshi server takes the call" in failed.reason
        assert "HTTP 503" in failed.reason
        assert not failed.internal
        assert not calls.pipeline.ready
        server.status = 0
        await calls.until_up(name(server))
        assert calls.pipeline.ready


async def test_personaplex_gets_a_persona_and_never_a_seed() -> None:
    needs, deadly = frozenset({"voice_prompt", "text_prompt"}), frozenset({"seed"})
    plex, plain = MoshiServer(needs=needs, deadly=deadly), MoshiServer(deadly=needs)
    async with ready(plex, plain), calling(f"{plex.url}?kind=personaplex", plain.url, seed=3) as calls:
        await calls.until_up(name(plex), name(plain))
        assert not plex.connected.is_set(), "a trial would set the persona of whoever comes next"
        calls.pipeline.send(PreparePrompt("key", "You are Ada.", "/personas/VARM4.pt"))
        assert await calls.prompts.get() == PromptReady("key", 0, 0)
        calls.open(0, CallPersona(prompt="key", sampling=(("text_top_k", 9.0),)))
        calls.open(1, CallPersona(prompt="key"))
        calls.say(0)
        calls.say(1)
        await calls.frames(3, slot=0)
        assert plex.query == {"voice_prompt": "VARM4.pt", "text_prompt": "You are Ada.", "text_topk": "9"}
        assert plain.query == {}


async def test_personaplex_without_a_persona_gets_both_parameters() -> None:
    plex = MoshiServer(needs=frozenset({"voice_prompt", "text_prompt"}))
    patience = replace(CALM, silent_s=1.0)
    async with ready(plex), calling(f"{plex.url}?kind=personaplex&voice_prompt=NATM1.pt", patience=patience) as calls:
        calls.open()
        await asyncio.wait_for(plex.connected.wait(), PATIENCE_S)
        with contextlib.suppress(TimeoutError):  # the phone rings for longer than a server may be silent
            async with asyncio.timeout(2 * patience.silent_s):
                await calls.arrived.get()
        assert not plex.heard
        calls.say()
        await calls.frames(2)
        assert plex.query["voice_prompt"] == "NATM1.pt"
        assert plex.query["text_prompt"]


@pytest.mark.parametrize(
    ("url", "prompt", "why"),
    [
        ("", PreparePrompt("key", "You are Ada."), "kind=personaplex"),
        ("?kind=personaplex", PreparePrompt("key", "", pcm=SPEECH), "recording"),
    ],
    ids=["no server takes it", "a recording"],
)
async def test_a_prompt_that_cannot_be_sent_is_refused(url: str, prompt: PreparePrompt, why: str) -> None:
    server = MoshiServer()
    async with ready(server), calling(server.url + url) as calls:
        calls.pipeline.send(prompt)
        answer = await calls.prompts.get()
        assert isinstance(answer, PromptRefused)
        assert why in answer.reason


async def test_no_server_can_be_told_what_to_say() -> None:
    server = MoshiServer()
    async with ready(server), calling(server.url) as calls:
        calls.open()
        calls.pipeline.send(Say(Slot(0), EPOCH, 1, "Hello"))
        assert await calls.next() == Said(Slot(0), EPOCH, 1, whole=False)


async def test_a_pinned_certificate_a_token_and_what_is_logged(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(tmp_path_factory.mktemp("certificate"))
    caplog.set_level("INFO")
    server = MoshiServer(before=[METADATA], handshake=bytes(9))
    async with serving(server, certificate.context):
        server.ready.set()
        pinned, other = (f"#sha256={pin}" for pin in (certificate.sha256, "0" * 64))
        with_token = f"{server.url}/%s?token=the-secret-token"
        urls = [f"{with_token % 'api/chat2'}{other}", f"{with_token % 'api/chat'}{pinned}"]
        async with calling(*urls) as calls:
            await calls.until_up(name(server))
            calls.begin()
            await calls.frames(3)
        assert server.authorization == "Bearer the-secret-token"
        assert server.query == {}
    assert certificate.sha256 in caplog.text, "which certificate the other one has"
    assert "the-secret-token" not in caplog.text
