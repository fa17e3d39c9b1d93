"""A prompt for one call in a whole service, on a checkpoint that takes prompts."""

import pytest

from tests.service.served import served
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
    assert "private matter" not in caplog.text
