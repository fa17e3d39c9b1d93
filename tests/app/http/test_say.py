"""`POST /api/calls/{call_sid}/say` with workers that are a list."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from app.calls.active_call import ActiveCall
from app.calls.end_reason import EndReason
from app.calls.sentences import MAX_QUEUED
from app.http import call_routes, json_body
from app.http.call_routes import MAX_BYTES
from app.twilio.events import CallSid
from tests.app.calls.front import settle
from tests.processes.pipeline import PATIENCE_S
from tests.service.front import Front, reply, start
from tests.service.phone import new_call_sid
from workers.messages import Said, Say


class Asking:
    def __init__(self) -> None:
        self.front = Front()

    async def say(self, call_sid: CallSid, text: object = "Hello", wait: bool = False) -> httpx.Response:
        return await self.post(call_sid, json.dumps({"text": text}).encode(), query="?wait=true" if wait else "")

    async def post(
        self,
        call_sid: CallSid,
        body: bytes | AsyncIterator[bytes],
        content_type: str = "application/json",
        query: str = "",
    ) -> httpx.Response:
        headers = {"Content-Type": content_type}
        async with asyncio.timeout(PATIENCE_S):
            return await self.front.http.post(f"/api/calls/{call_sid}/say{query}", content=body, headers=headers)

    async def wait(self, call_sid: CallSid, sentence: int) -> "asyncio.Task[httpx.Response]":
        """Ask and wait for the answer in a task; return it once the workers have been told."""
        request = asyncio.create_task(self.say(call_sid, wait=True))
        async with asyncio.timeout(PATIENCE_S):
            while sentence not in dict(self.told):
                await settle()
        return request

    def answer(self, call: ActiveCall, sentence: int, whole: bool = True) -> None:
        held = call.reservation
        self.front.manager.handle_message(Said(held.slot, held.epoch, sentence, whole))

    @property
    def told(self) -> list[tuple[int, str]]:
        return [(message.sentence, message.text) for message in self.front.sent if isinstance(message, Say)]


@pytest_asyncio.fixture
async def asking() -> AsyncIterator[Asking]:
    made = Asking()
    yield made
    made.front.manager.stop()
    await made.front.http.aclose()


async def test_a_sentence_is_queued_and_goes_to_the_workers_in_one_line(asking: Asking) -> None:
    call_sid = (await asking.front.talk()).session.record.call_sid
    assert reply(await asking.say(call_sid, " Hello\nAnn ")) == (202, {"id": 1})
    assert reply(await asking.say(call_sid, "Grüße 🎉")) == (202, {"id": 2})
    assert asking.told == [(1, "Hello Ann"), (2, "Grüße 🎉")]


async def test_who_waits_is_answered_when_the_sentence_has_been_said_with_whether_it_was_whole(asking: Asking) -> None:
    call = await asking.front.talk()
    call_sid = call.session.record.call_sid
    first, second = await asking.wait(call_sid, 1), await asking.wait(call_sid, 2)
    asking.answer(call, 1)
    assert reply(await first) == (200, {"id": 1, "whole": True})
    assert not second.done()
    asking.answer(call, 2, whole=False)
    assert reply(await second) == (200, {"id": 2, "whole": False})


async def test_who_has_waited_for_30_seconds_is_told_that_the_sentence_is_queued_still(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call_routes.SAID_WITHIN_S == 30
    monkeypatch.setattr(call_routes, "SAID_WITHIN_S", 0.001)
    call = await asking.front.talk()
    assert reply(await asking.say(call.session.record.call_sid, wait=True)) == (202, {"id": 1})
    asking.answer(call, 1)
    assert call.session.record.counts["sentences_said"] == 1, "it was said all the same"


async def test_when_the_call_ends_who_waits_gets_409(asking: Asking) -> None:
    call = await asking.front.talk()
    request = await asking.wait(call.session.record.call_sid, 1)
    call.end(EndReason.CALLER_HUNG_UP)
    assert reply(await request) == (409, "the call ended before the sentence was said")


async def test_an_unknown_call_is_404_one_that_is_not_live_409_and_one_with_enough_to_say_429(asking: Asking) -> None:
    assert reply(await asking.say(CallSid("CAnobody"))) == (404, "no such call")
    path = await asking.front.ring(call_sid := new_call_sid())
    not_live = (409, "the call is not live: its stream has not started, or it is ending")
    assert reply(await asking.say(call_sid)) == not_live
    call = asking.front.claim(path)
    assert reply(await asking.say(call_sid)) == not_live
    start(call, call_sid)
    assert [(await asking.say(call_sid)).status_code for _ in range(MAX_QUEUED + 1)] == [202] * MAX_QUEUED + [429]
    asking.front.sent.clear()
    asking.front.manager.on_pipeline_lost("step: killed by SIGKILL")
    in_gap = (409, "Moshi does not hear this call at the moment: try again when it goes on")
    assert reply(await asking.say(call_sid)) == in_gap
    call.session.record.first_sound_s = 0.0
    call.drain(EndReason.OPERATOR)
    assert reply(await asking.say(call_sid)) == not_live
    call.end(EndReason.OPERATOR)
    assert reply(await asking.say(call_sid)) == (409, "the call is over")
    assert asking.told == []


WANTED = 'send a JSON object {"text": "…"}'
WRONG: list[tuple[bytes, int, str]] = [
    (b"", 400, f"not JSON: {WANTED}"),
    (b'{"text": "\xff"}', 400, f"not JSON: {WANTED}"),
    (b'{"text": ' + b"1" * 5_000 + b"}", 400, f"not JSON: {WANTED}"),
    (b"[" * 16_000, 400, f"not JSON: {WANTED}"),
    (b'["Hello"]', 422, WANTED),
    (b"{}", 422, WANTED),
    (b'{"text": null}', 422, WANTED),
    (b'{"text": "Hello", "wait": true}', 422, WANTED),
    (b'{"text": " \\u0000\\ud800\\n"}', 422, "the text is empty"),
    (b'{"text": "' + b"x" * 501 + b'"}', 422, "the text has 501 characters, more than 500"),
    (b'{"text": "' + b"x" * MAX_BYTES + b'"}', 413, f"the request is larger than {MAX_BYTES} bytes"),
]


@pytest.mark.parametrize(("body", "status", "why"), WRONG, ids=[str(body[:20]) for body, _, _ in WRONG])
async def test_what_is_no_text_is_refused_in_one_line_and_nothing_is_said(
    asking: Asking, body: bytes, status: int, why: str
) -> None:
    call_sid = (await asking.front.talk()).session.record.call_sid
    assert reply(await asking.post(call_sid, body)) == (status, why)
    assert asking.told == []


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_another_content_type_is_refused(asking: Asking, content_type: str) -> None:
    call_sid = (await asking.front.talk()).session.record.call_sid
    assert reply(await asking.post(call_sid, b'{"text": "Hello"}', content_type))[0] == 415
    assert reply(await asking.post(call_sid, b'{"text": "Hello"}', "Application/JSON; charset=utf-8"))[0] == 202


async def test_the_longest_text_fits_however_it_is_escaped(asking: Asking) -> None:
    call_sid = (await asking.front.talk()).session.record.call_sid
    assert reply(await asking.say(call_sid, "🎉" * 500)) == (202, {"id": 1})


async def test_a_body_that_does_not_come_in_time_is_refused(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b'{"text": '
        await asyncio.Event().wait()

    call_sid = (await asking.front.talk()).session.record.call_sid
    monkeypatch.setattr(json_body, "WITHIN_S", 0.001)
    assert reply(await asking.post(call_sid, never())) == (408, "the text did not arrive in time")


async def test_the_text_is_in_no_log(asking: Asking, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "app"):
        call = await asking.front.talk()
        await asking.say(call.session.record.call_sid, "a private matter")
        asking.answer(call, 1)
    assert "say sentence 1" in caplog.text
    assert "private" not in caplog.text


# Any input.


class Fuzzing:
    """One call for all that is tried."""

    def __init__(self) -> None:
        self.runner, self.asking = asyncio.Runner(), Asking()
        self.call = self.runner.run(self.asking.front.talk())

    def post(self, body: bytes, content_type: str, query: str) -> httpx.Response:
        call_sid = self.call.session.record.call_sid
        answer = self.runner.run(self.asking.post(call_sid, body, content_type, query))
        for message in [one for one in self.asking.front.sent if isinstance(one, Say)]:
            message.text.encode()
            self.asking.answer(self.call, message.sentence)
        self.asking.front.sent.clear()
        return answer

    def close(self) -> None:
        self.call.end(EndReason.SHUTDOWN)
        self.runner.run(self.asking.front.http.aclose())
        self.runner.close()


@pytest.fixture(scope="module")
def fuzzing() -> Iterator[Fuzzing]:
    made = Fuzzing()
    yield made
    made.close()


TEXTS = st.text(st.characters(codec=None), max_size=600) | st.just("x" * 2_000)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("text") | TEXTS, inner, max_size=3),
    max_leaves=5,
)
BODIES = (
    TEXTS.map(lambda text: json.dumps({"text": text}).encode())
    | VALUES.map(lambda value: json.dumps({"text": value}).encode())
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=100)
)


@given(BODIES, st.just("application/json") | st.sampled_from(["", "text/plain", ";"]), st.sampled_from(["", "?wait=0"]))
def test_whatever_is_sent_is_answered_and_never_with_500(
    fuzzing: Fuzzing, body: bytes, content_type: str, query: str
) -> None:
    answer = fuzzing.post(body, content_type, query)
    assert answer.status_code in {202, 400, 413, 415, 422}
    assert answer.status_code == 202 or "\n" not in answer.json()["detail"]
