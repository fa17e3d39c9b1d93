"""`POST /api/prompts`, where the personas are in our hands."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from app.calls.prompts import MOST_PROMPT, PromptRejected, PromptUnavailable
from app.http.persona_routes import MAX_BYTES, WANTED
from tests.service.front import Front, OnePrompt, reply


class Asking:
    def __init__(self) -> None:
        self.personas = OnePrompt()
        self.http = Front(personas=self.personas).http

    async def post(self, body: bytes) -> httpx.Response:
        return await self.http.post("/api/prompts", content=body, headers={"Content-Type": "application/json"})

    async def ask(self, text: object, **more: object) -> tuple[int, object]:
        return reply(await self.post(json.dumps({"text": text, **more}).encode()))


@pytest_asyncio.fixture
async def asking() -> AsyncIterator[Asking]:
    made = Asking()
    yield made
    await made.http.aclose()


async def test_a_text_is_prepared_for_a_persona_or_the_default(asking: Asking) -> None:
    assert await asking.ask(" You are Eve.\n\tBe brief.\x00\ud800", persona="ada") == (201, {"id": "an-id"})
    assert await asking.ask("🎉" * MOST_PROMPT) == (201, {"id": "an-id"})
    assert asking.personas.asked == [("You are Eve.\n\tBe brief.", "ada", ""), ("🎉" * MOST_PROMPT, "", "")]


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"[" * 5_000, 400, f"not JSON: {WANTED}"),
        (b"{}", 422, WANTED),
        (b'{"text": 7}', 422, WANTED),
        (b'{"text": "x", "persona": null}', 422, WANTED),
        (b'{"text": " \\u0000\\ud800\\n"}', 422, "the text is empty"),
        (b'{"text": "' + b"x" * 4_001 + b'"}', 422, "the text has 4,001 characters, more than 4,000"),
        (b'{"text": "' + b"x" * MAX_BYTES + b'"}', 413, f"the request is larger than {MAX_BYTES} bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_what_is_no_prompt_is_refused_in_one_line(asking: Asking, body: bytes, status: int, why: str) -> None:
    assert reply(await asking.post(body)) == (status, why)
    assert asking.personas.asked == []


async def test_what_the_engine_says_is_the_answer(asking: Asking) -> None:
    asking.personas.fails = PromptRejected("this checkpoint takes no prompt")
    assert await asking.ask("You are Eve.") == (422, "this checkpoint takes no prompt")
    asking.personas.fails = PromptUnavailable("4 prompts wait")
    assert await asking.ask("You are Eve.") == (503, "4 prompts wait")


async def test_the_text_is_in_no_log(asking: Asking, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "app"):
        await asking.ask("a private matter")
    assert "prompt for one call is ready" in caplog.text
    assert "private" not in caplog.text
