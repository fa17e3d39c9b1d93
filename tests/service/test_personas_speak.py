"""Personas in a whole service: greetings on the synthetic speaker, prompts that are refused."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from app.cli.service_process import free_port, start_service
from app.server.serve import EXIT_SETTINGS
from tests.service.caller import Caller
from tests.service.test_serve import LOOPBACK, serve
from tests.synthetic import synthetic_cache

GREETINGS = {
    "ada": "Hello! I'm Ada from Northside Dental, how can I help you?",
    "leo": "Hey, this is Leo. What is on your mind today?",
}
WELCOME = "Good evening, Bistro Verde. Would you like to book a table?"


@pytest.mark.slow
async def test_each_of_two_callers_hears_their_own_persona_and_the_next_one_an_edit(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name, greeting in GREETINGS.items():
        (tmp_path / f"{name}.toml").write_text(f'greeting = "{greeting}"')
    cache = str(synthetic_cache(tmp_path_factory))
    environment = {"MOSHI_CHECKPOINT": "synthetic:script", "CACHE_DIR": cache, "MAX_CALLS": "2"}
    environment |= {"PERSONAS_DIR": str(tmp_path), "PERSONA": "ada", "TRANSCRIBE": "synthetic:stt"}
    async with start_service(environment, tmp_path / "log") as service:
        async with aiohttp.ClientSession(service.base_url) as http, http.get("/metrics") as answer:
            assert 'worker_up{worker="transcriber"} 1' in await answer.text(), "ready: nothing loads beside the calls"

        async def hears(persona: str, greeting: str) -> None:
            caller = Caller(service, f"/twilio/voice?persona={persona}")
            await caller.until(lambda record: len(record["transcript"]) >= len(greeting))
            record = await caller.hang_up()
            assert (record["persona"], record["transcript"][: len(greeting)]) == (persona, greeting)

        await asyncio.gather(*(hears(name, greeting) for name, greeting in GREETINGS.items()))
        (tmp_path / "ada.toml").write_text(f'greeting = "{WELCOME}"')
        await hears("ada", WELCOME)


async def test_prompts_that_the_checkpoint_refuses_end_the_first_start_with_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "ada.toml").write_text('prompt = "You are Ada."')
    (tmp_path / "second.toml").write_text('name = "leo"\nvoice = "NATF0"')
    async with serve(tmp_path, **LOOPBACK, PORT=str(free_port()), PERSONAS_DIR=str(tmp_path)) as program:
        status, words = await program.end()
    assert status == EXIT_SETTINGS
    assert [line for line in words.splitlines() if line.startswith("moshi-bridge")] == [
        "moshi-bridge: ada.toml: this checkpoint takes no prompt and no voice",
        "moshi-bridge: second.toml: this checkpoint takes no prompt and no voice",
    ]
