"""Chats over real sockets with a service whose engine is a line test: the client hears itself."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import soundfile
import sphn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from app.calls.end_reason import EndReason
from tests.app.cli.talk.test_run import talk
from tests.processes.pipeline import PATIENCE_S
from tests.service.served import Served, served
from workers.messages import Pcm

TOKEN = "a-token-for-chats-only"
PAGE = 960
HANDSHAKE, AUDIO, TEXT, METADATA = (bytes([kind]) for kind in (0, 1, 2, 4))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one() -> AsyncIterator[Served]:
    async with served(max_calls=2, chat_token=TOKEN) as service:
        yield service


pytestmark = pytest.mark.asyncio(loop_scope="module")


def dial(service: Served, query: str = "", **headers: str) -> connect:
    url = f"ws://127.0.0.1:{service.phone.port}/api/chat{query}"
    waits: dict[str, Any] = {"ping_interval": None, "open_timeout": PATIENCE_S}  # for a prompt before the upgrade
    return connect(url, additional_headers=headers, compression=None, proxy=None, **waits)


async def refusal(service: Served, query: str = "", **headers: str) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refused:
        async with dial(service, query, **headers):
            pass
    return refused.value.response.status_code, refused.value.response.body.decode()


async def next_of(socket: ClientConnection, kind: bytes) -> bytes:
    """Return the body of the next message of a kind."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            message = await socket.recv()
            assert isinstance(message, bytes)
            if message[:1] == kind:
                return message[1:]
    raise AssertionError


async def opened(socket: ClientConnection) -> dict[str, Any]:
    """Wait for the handshake; return the metadata."""
    async with asyncio.timeout(PATIENCE_S):
        assert await socket.recv() == HANDSHAKE, "the first message"
    metadata: dict[str, Any] = json.loads(await next_of(socket, METADATA))
    return metadata


def tone(samples: int = PAGE) -> Pcm:
    """A tone of 500 Hz: 20 periods a page."""
    return (0.5 * np.sin(np.arange(samples) * 2 * np.pi * 500 / 24_000)).astype(np.float32)


def int16(pcm: Pcm) -> bytes:
    return (pcm * 32_767).astype("<i2").tobytes()


def is_tone(pcm: Pcm) -> bool:
    spectrum = np.abs(np.fft.rfft(pcm, 960))
    return bool(np.sqrt(np.mean(pcm**2)) > 0.2 and abs(int(np.argmax(spectrum)) - 20) <= 1)


async def all_over(service: Served) -> None:
    await asyncio.wait_for(service.service.manager.no_calls.wait(), PATIENCE_S)
    assert service.free_slots == 2


async def test_a_pcm_client_hears_itself_and_is_a_call_like_any_other(one: Served) -> None:
    async with dial(
        one, "?format=pcm&text_temperature=0.5&text_topk=20&pad_mult=2&text_seed=7&worker_addr=x"
    ) as socket:
        metadata = await opened(socket)
        call_sid = metadata["call_sid"]
        assert (metadata["text_temperature"], metadata["text_topk"]) == (0, 0), "a line test samples nothing"
        assert (metadata["format"], metadata["lm_model_file"]) == ("pcm", "loopback")
        heard = np.zeros(PAGE, np.float32)
        while not is_tone(heard):
            await socket.send(AUDIO + int16(tone()))
            heard = np.frombuffer(await next_of(socket, AUDIO), "<i2").astype(np.float32) * np.float32(1 / 32_768)
            assert len(heard) == 2 * PAGE
        (call,) = one.service.manager.calls
        assert call.session.record.call_sid == call_sid
        assert call_sid.startswith("chat-")
        assert len(call_sid) == 5 + 32
        assert call.session.record.latencies_s, "measured"
    await all_over(one)
    assert one.record(call_sid).end is EndReason.CALLER_HUNG_UP


async def test_an_opus_client_hears_itself_without_headers_and_after_garbage(one: Served) -> None:
    writer, reader = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000)
    async with dial(one) as socket:
        await opened(socket)
        writer.append_pcm(tone())  # the headers and the first page are lost
        for garbage in (b"", b"OggS", b"\x00" * 999, b"OggS" * 9_000, np.random.default_rng(1).bytes(60_000)):
            await socket.send(AUDIO + garbage)
        for other in (b"", b"\x00", b"\x03\x01", b"\x09", b"\xff" * 300):
            await socket.send(other)
        await socket.send("a text message")
        heard = np.zeros(PAGE, np.float32)
        while not (len(heard) and is_tone(heard)):
            await socket.send(AUDIO + writer.append_pcm(tone()))
            heard = reader.append_bytes(await next_of(socket, AUDIO))
    await all_over(one)


async def test_a_client_that_sends_nothing_hears_moshi_all_the_same(one: Served) -> None:
    async with dial(one, "?format=pcm") as socket:
        await opened(socket)
        assert [len(await next_of(socket, AUDIO)) for _ in range(20)] == [4 * PAGE] * 20
    await all_over(one)


@pytest.mark.slow
async def test_a_flood_ends_no_call_and_delays_no_other(one: Served) -> None:
    async with dial(one, "?format=pcm") as flooding, dial(one, "?format=pcm") as other:
        await opened(flooding)
        await opened(other)

        async def flood() -> None:
            while True:
                await flooding.send(AUDIO + bytes(48_000))

        task = asyncio.create_task(flood())
        for _ in range(25):
            await next_of(other, AUDIO)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        counts = [call.session.counts for call in one.service.manager.calls]
        assert counts[0]["ms_late"] > 0
        assert counts[1]["ms_late"] < counts[0]["ms_late"] / 10
        flooding.transport.abort()  # a close would wait until all was read
    one.end_calls()
    await all_over(one)


async def test_when_all_slots_are_taken_the_upgrade_is_refused(one: Served) -> None:
    async with dial(one, "?format=pcm") as first, dial(one, "?format=pcm") as second:
        await opened(first)
        await opened(second)
        assert await refusal(one) == (503, "no slot is free")
    await all_over(one)


@pytest.mark.parametrize(
    "query",
    ["format=mp3", "text_temperature=hot", "audio_topk=0", "pad_mult=nan", "persona=nobody", "voice_prompt=..%2Fx"],
)
async def test_a_query_that_cannot_be_served_is_refused_in_one_line(one: Served, query: str) -> None:
    status, said = await refusal(one, f"?{query}")
    assert status == 400
    assert said.startswith(("format:", "text_temperature:", "audio_topk:", "pad_mult:", "persona:", "voice_prompt:"))
    assert "\n" not in said
    assert one.free_slots == 2


async def test_strangers_need_the_token_and_pages_of_other_sites_have_no_use_for_it(one: Served) -> None:
    elsewhere = {"X-Forwarded-For": "192.0.2.1"}
    for query in ("", "?token=wrong", "?token="):
        status, said = await refusal(one, query, **elsewhere)
        assert (status, TOKEN in said) == (403, False)
    assert (await refusal(one, f"?token={TOKEN}", Origin="https://evil.example"))[0] == 403
    for query, headers in ((f"?format=pcm&token={TOKEN}", {}), ("?format=pcm", {"Authorization": f"Bearer {TOKEN}"})):
        async with dial(one, query, **elsewhere, **headers) as socket:
            await opened(socket)
        await all_over(one)
    lines = [one.log.get_nowait() for _ in range(one.log.qsize())]
    assert not any(TOKEN in line for line in lines)
    response = await one.http.get("/api/calls", headers={**elsewhere, "Authorization": f"Bearer {TOKEN}"})
    assert response.status_code == httpx.codes.FORBIDDEN, "it is no operators' token"


async def test_the_setting_turns_it_off() -> None:
    async with served(chat=False) as service:
        assert (await refusal(service))[0] == 404


async def test_talk_hears_itself_through_the_service(one: Served, tmp_path: Path) -> None:
    said, heard = tmp_path / "said.wav", tmp_path / "heard.wav"
    soundfile.write(said, tone(4 * 24_000), 24_000)
    options = ("--url", f"ws://127.0.0.1:{one.phone.port}", "--wav", str(said), "--out", str(heard), "--seconds", "4")
    ended = await talk(tmp_path, *options)
    assert (ended.status, ended.error) == (0, "")
    sent, back = soundfile.read(heard)[0].T
    assert np.abs(sent).max() > 0.1
    assert np.abs(back).max() > 0.1
    await all_over(one)
