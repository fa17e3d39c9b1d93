"""Prompts and voices that chats ask for, where the personas are in our hands."""

import asyncio

import pytest

from app.calls.prompts import PromptRejected, PromptUnavailable
from app.http.chat_routes import PROMPTS_AT_ONCE
from app.twilio.events import CallSid
from tests.app.calls.front import settle
from tests.service.front import Dialled, Front, OnePrompt, front_settings
from workers.messages import Open

TOKEN = "a-token-for-chats-only"
HERE, ELSEWHERE = "127.0.0.1", "phone.example.com"


class ChatPrompts(OnePrompt):
    """Waits until the prompt is `computed`; a call takes the last slot meanwhile if it `is_slow`."""

    def __init__(self) -> None:
        super().__init__()
        self.front = Front(front_settings(max_calls=1, chat_token=TOKEN), personas=self)
        self.is_slow = False
        self.computed = asyncio.Event()
        self.computed.set()

    async def prepare_once(self, text: str, name: str, voice: str = "") -> str:
        key = await super().prepare_once(text, name, voice)
        await self.computed.wait()
        if self.is_slow:
            assert self.front.manager.reserve(CallSid("CAfast"))
        return key

    async def dial(self, query: str, host: str = HERE) -> Dialled:
        return await self.front.dial("/api/chat", None, query=query, host=host)


@pytest.fixture
def personas() -> ChatPrompts:
    return ChatPrompts()


async def test_an_operators_chat_waits_for_its_prompt_and_opens_with_it(personas: ChatPrompts) -> None:
    assert (await personas.dial("text_prompt=You+are+Eve.&voice_prompt=NATF0.pt")).accepted
    assert personas.asked == [("You are Eve.", "", "NATF0.pt")]
    assert any(isinstance(message, Open) for message in personas.front.sent)
    assert personas.dropped == []


async def test_a_client_with_the_token_may_choose_a_voice_and_no_text(personas: ChatPrompts) -> None:
    assert (await personas.dial(f"token={TOKEN}&voice_prompt=NATF0", ELSEWHERE)).accepted
    refused = await personas.dial(f"token={TOKEN}&voice_prompt=NATF0&text_prompt=x", ELSEWHERE)
    assert (refused.code, refused.told) == (403, b"text_prompt: for operators only; ask for a persona")
    assert (await personas.dial(f"token={TOKEN}&voice_prompt=&text_prompt=", ELSEWHERE)).accepted
    assert personas.asked == [("", "", "NATF0")]


async def test_clients_with_the_token_leave_operators_half_of_the_prompts(personas: ChatPrompts) -> None:
    asks = f"token={TOKEN}&voice_prompt=NATF0"
    personas.computed.clear()
    waiting = [asyncio.create_task(personas.dial(asks, ELSEWHERE)) for _ in range(PROMPTS_AT_ONCE[False])]
    await settle()
    refused = await personas.dial(asks, ELSEWHERE)
    assert (refused.code, refused.told) == (503, b"other chats wait for their prompts")
    operators = asyncio.create_task(personas.dial("voice_prompt=NATF1"))
    await settle()
    assert [voice for _, _, voice in personas.asked] == ["NATF0", "NATF0", "NATF1"]
    personas.computed.set()
    await asyncio.gather(*waiting, operators)
    assert (await personas.dial(asks, ELSEWHERE)).accepted


async def test_who_may_not_chat_has_nothing_computed(personas: ChatPrompts) -> None:
    assert (await personas.dial("token=wrong&voice_prompt=NATF0", ELSEWHERE)).code == 403
    assert personas.asked == []


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (PromptRejected("there is no such voice"), 400, b"the prompt is refused: there is no such voice"),
        (PromptUnavailable("4 prompts wait"), 503, b"4 prompts wait"),
    ],
    ids=["rejected", "unavailable"],
)
async def test_what_cannot_be_computed_is_refused_before_the_upgrade(
    personas: ChatPrompts, error: Exception, status: int, told: bytes
) -> None:
    personas.fails = error
    refused = await personas.dial("voice_prompt=NATX9")
    assert (refused.accepted, refused.code, refused.told) == (False, status, told)
    assert personas.front.manager.free_slots == 1


async def test_a_prompt_is_dropped_when_its_chat_gets_no_slot_and_not_computed_without_one(
    personas: ChatPrompts,
) -> None:
    personas.is_slow = True
    assert (await personas.dial("voice_prompt=NATF0")).code == 503
    assert personas.dropped == ["an-id"]
    assert (await personas.dial("voice_prompt=NATF0")).code == 503
    assert len(personas.asked) == 1
