"""A prompt for one call in a whole service, on a checkpoint that takes prompts."""

import asyncio
from urllib.parse import urlencode

import pytest

from tests.processes.pipeline import PATIENCE_S
from tests.service.served import Served, served
from tests.service.test_chat import dial, opened, refusal
from tests.service.test_personas import ring
from tests.synthetic import synthetic_cache

TEXT = "You are Eve, and this is a private matter."


async def test_a_call_opens_with_its_prompt_once(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    cache = str(synthetic_cache(tmp_path_factory))
    async with served(
        engine="mlx", codec="numpy", moshi_checkpoint="synthetic:personaplex", cache_dir=cache, max_calls=4
    ) as service:
        answer = await service.http.post("/api/prompts", json={"text": "a " * 600})
        assert answer.status_code == 422
        assert "tokens, more than 500" in answer.json()["detail"]
        answer = await service.http.post("/api/prompts", json={"text": TEXT})
        assert answer.status_code == 201, answer.text
        query = f"?prompt={answer.json()['id']}"
        await ring(service, query)
        assert not any("begins without" in record.getMessage() for record in caplog.records)
        await ring(service, query)
        await service.until("the prompt of this call is unknown, used or expired")
        service.end_calls()
        await check_chats(service)
    assert sum("begins without" in record.getMessage() for record in caplog.records) == 1, "the second ring alone"
    assert "private matter" not in caplog.text


async def check_chats(service: Served) -> None:
    """Chats are opened with what they ask for, and what there is not is refused."""
    for asked in ({"text_prompt": TEXT}, {"voice_prompt": "NATF0.pt"}, {"text_prompt": TEXT, "voice_prompt": "NATM0"}):
        async with dial(service, f"?{urlencode({'format': 'pcm', **asked})}") as socket:
            await opened(socket)
            (call,) = service.service.manager.calls
            assert call.request.prompt
        await asyncio.wait_for(service.service.manager.no_calls.wait(), PATIENCE_S)
    status, said = await refusal(service, "?voice_prompt=NATX9")
    assert (status, "no voice NATX9" in said, "\n" in said) == (400, True, False)
    status, said = await refusal(service, f"?text_prompt={'a+' * 600}")
    assert (status, "tokens, more than 500" in said) == (400, True)
    assert service.free_slots == 4
