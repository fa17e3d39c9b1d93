"""The personas of a service whose pipeline is in our hands."""

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile

from app.calls.personas import Chosen
from app.calls.prompts import PromptRejected, PromptUnavailable
from app.config import SettingsError, read_settings
from app.server import persona_prompts
from app.server.persona_prompts import ServicePersonas
from tests.app.calls.front import settle
from tests.processes.pipeline import PATIENCE_S
from workers.messages import CallPersona, DropPrompt, PreparePrompt, PromptMessage, PromptReady, PromptRefused

OURS = "+15551234567"
ADA = f'numbers = ["{OURS}"]\ngreeting = "Hello! I am Ada."\nprompt = "You are Ada."\n[sampling]\ntext_top_k = 7\n'


class Bench:
    """Personas of a folder; `sent` is what the pipeline has got, `start` and `lose` are its life."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.sent: list[PromptMessage] = []
        self.personas = ServicePersonas(read_settings(personas_dir=str(folder), **settings), self.sent.append)
        self._ready = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.personas.run(self._wait_ready))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _wait_ready(self) -> None:
        await self._ready.wait()

    async def start(self) -> None:
        self._ready.set()
        await settle()

    async def lose(self) -> None:
        self._ready.clear()
        self.personas.on_pipeline_lost()
        await settle()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def prepared(self) -> list[PreparePrompt]:
        """Return the prompts sent since the last time."""
        messages, self.sent[:] = [*self.sent], []
        return [message for message in messages if isinstance(message, PreparePrompt)]

    def ready(self, prompt: PreparePrompt) -> None:
        self.personas.handle_message(PromptReady(prompt.key, 20, 1_000))

    async def begin(self) -> PreparePrompt:
        """Start the pipeline, have it prepare the only prompt; return that."""
        await self.start()
        [prompt] = self.prepared()
        self.ready(prompt)
        await self.personas.wait_prepared()
        return prompt


@pytest.fixture(autouse=True)
def _a_slow_disk_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persona_prompts, "REFRESH_WITHIN_S", PATIENCE_S)


@pytest.fixture
def ada(tmp_path: Path) -> Path:
    (tmp_path / "ada.toml").write_text(ADA)
    return tmp_path


@pytest_asyncio.fixture
async def bench(ada: Path) -> AsyncIterator[Bench]:
    """Ada's, whose prompt is prepared once the pipeline is started."""
    made = Bench(ada)
    async with made.running():
        yield made


async def test_a_call_gets_all_that_the_engine_must_know_of_its_persona(bench: Bench) -> None:
    prompt = await bench.begin()
    assert (prompt.text, prompt.voice, prompt.pcm) == ("You are Ada.", "", None)
    call = CallPersona("Hello! I am Ada.", False, prompt.key, (("text_top_k", 7),))
    assert bench.personas.choose("", OURS) == Chosen("ada", call)
    assert bench.personas.choose("ada", "") == Chosen("ada", call)
    assert bench.personas.choose("", "") == bench.personas.choose("eve", "") == Chosen()


async def test_a_persona_listens_while_it_greets_if_it_is_told_so(ada: Path) -> None:
    (ada / "bob.toml").write_text("")
    personas = Bench(ada, persona="bob", greeting_listens=True).personas
    assert personas.choose("", OURS).call.listens
    assert personas.choose("", "") == Chosen("bob", CallPersona()), "without a greeting there is nothing to cut"


async def test_calls_wait_for_the_prompts_and_those_after_a_restart_too(bench: Bench) -> None:
    assert not bench.personas.settled
    await bench.begin()
    assert bench.personas.settled
    await bench.lose()
    assert not bench.personas.settled
    await bench.start()
    [prompt] = bench.prepared()
    assert (bench.personas.settled, bench.personas.choose("ada", "").call.prompt) == (False, "")
    bench.ready(prompt)
    assert (bench.personas.settled, bench.personas.choose("ada", "").call.prompt) == (True, prompt.key)


async def test_a_pipeline_lost_before_we_noticed_that_it_was_ready_is_asked_nothing(bench: Bench) -> None:
    await settle()
    bench._ready.set()
    bench.personas.on_pipeline_lost()
    bench._ready.clear()
    await settle()
    assert bench.prepared() == []
    await bench.begin()


async def test_prompts_refused_at_the_start_are_a_line_each_that_names_the_file(ada: Path) -> None:
    (ada / "second.toml").write_text('name = "bob"\nvoice = "NATF0"')
    bench = Bench(ada)
    async with bench.running():
        await bench.start()
        for prompt in bench.prepared():
            bench.personas.handle_message(PromptRefused(prompt.key, f"no {prompt.voice or prompt.text}"))
        with pytest.raises(SettingsError, match=r"\Aada.toml: no You are Ada.\nsecond.toml: no NATF0\Z"):
            await bench.personas.wait_prepared()


async def test_a_prompt_refused_later_is_logged_and_its_calls_begin_without(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.begin()
    await bench.lose()
    await bench.start()
    [prompt] = bench.prepared()
    bench.personas.handle_message(PromptRefused(prompt.key, "no memory"))
    assert (bench.personas.settled, bench.personas.choose("ada", "").call.prompt) == (True, "")
    [line] = [record.getMessage() for record in caplog.records]
    assert line == "ada.toml: the prompt is refused, calls begin without one: no memory"


async def test_an_edit_takes_effect_for_the_next_call_and_its_prompt_once_it_is_ready(bench: Bench) -> None:
    old = await bench.begin()
    bench.write("ada.toml", ADA.replace("Hello!", "Welcome!").replace("You are Ada.", "You are she."))
    await bench.personas.refresh()
    [new] = bench.prepared()
    call = bench.personas.choose("ada", "").call
    assert (call.greeting, call.prompt, new.text) == ("Welcome! I am Ada.", old.key, "You are she.")
    assert bench.personas.settled, "no call waits for an edit"
    bench.ready(new)
    assert bench.personas.choose("ada", "").call.prompt == new.key
    assert bench.sent == [DropPrompt(old.key)]
    bench.write("ada.toml", 'greeting = "Once more."')
    await bench.personas.refresh()
    assert bench.personas.choose("ada", "").call == CallPersona("Once more.")


async def test_many_calls_at_once_read_the_folder_and_all_see_the_edit(bench: Bench) -> None:
    await bench.begin()
    waiting = [asyncio.create_task(bench.personas.refresh()) for _ in range(5)]
    await asyncio.sleep(0)
    bench.write("bob.toml", "")
    await asyncio.gather(bench.personas.refresh(), *waiting)
    assert bench.personas.choose("bob", "").name == "bob"


async def test_the_prompt_of_an_edited_file_is_prepared_before_anybody_calls(ada: Path) -> None:
    bench = Bench(ada)
    async with bench.running(), asyncio.timeout(PATIENCE_S):
        await bench.begin()
        bench.write("ada.toml", 'prompt = "You are she."')
        watching = asyncio.create_task(bench.personas.watch(0.0))
        while not bench.sent:  # noqa: ASYNC110 - a thread reads the folder
            await asyncio.sleep(0)
        watching.cancel()
        assert [prompt.text for prompt in bench.prepared()] == ["You are she."]


async def test_operators_see_what_became_of_each_prompt(ada: Path) -> None:
    (ada / "bob.toml").write_text('greeting = "Bob here."')
    bench = Bench(ada, persona="bob")
    async with bench.running():
        await bench.begin()
        shown = {str(one["name"]): one for one in bench.personas.as_json()}
    assert (shown["ada"]["prompt_steps"], shown["ada"]["prompt_bytes"]) == (20, 1_000)
    assert (shown["bob"]["default"], shown["bob"]["greeting"], shown["bob"]["prompt_steps"]) == (
        True,
        "Bob here.",
        None,
    )


# Prompts for one call.


async def asked(bench: Bench, text: str, name: str, voice: str = "") -> tuple[str, PreparePrompt]:
    """Have a prompt for one call prepared; return its id, and what the pipeline got."""
    async with asyncio.timeout(PATIENCE_S):
        task = asyncio.create_task(bench.personas.prepare_once(text, name, voice))
        while not bench.sent:  # noqa: ASYNC110 - a thread looks at the folder first
            await asyncio.sleep(0)
        [prompt] = bench.prepared()
        bench.ready(prompt)
        return await task, prompt


async def test_a_prompt_for_one_call_leaves_the_persona_its_voice_and_greeting(ada: Path) -> None:
    (ada / "ada.toml").write_text(ADA.replace("prompt", 'voice = "NATF0"\nprompt'))
    bench = Bench(ada)
    async with bench.running(), asyncio.timeout(PATIENCE_S):
        own = await bench.begin()
        key, prompt = await asked(bench, "You are Eve.", "ada")
        assert (prompt.text, prompt.voice, key != own.key) == ("You are Eve.", "NATF0", True)
        call = CallPersona("Hello! I am Ada.", False, key, (("text_top_k", 7),))
        assert bench.personas.choose("ada", "", key) == Chosen("ada", call, prompt)
        await settle()
        assert bench.sent == [DropPrompt(key)]
        again = bench.personas.choose("ada", "", key)
        assert (again.name, again.call.prompt) == ("ada", own.key), "with the persona's own"


async def test_without_a_persona_a_prompt_for_one_call_has_no_voice(bench: Bench) -> None:
    await bench.begin()
    key, prompt = await asked(bench, "You are Eve.", "")
    assert prompt.voice == ""
    assert bench.personas.choose("", "", key) == Chosen("", CallPersona(prompt=key), prompt)


async def test_a_prompt_for_one_call_may_have_another_voice(ada: Path) -> None:
    """`.pt` is in the names that NVIDIA's web client sends."""
    (ada / "ada.toml").write_text(ADA.replace("prompt", 'voice = "NATF0"\nprompt'))
    (ada / "cy.pt").write_bytes(b"embeddings")
    soundfile.write(ada / "bo.wav", 0.1 * np.sin(np.arange(48_000) / 9), 24_000)
    bench = Bench(ada)
    async with bench.running(), asyncio.timeout(PATIENCE_S):
        await bench.begin()
        for voice, known in (("NATM1.pt", "NATM1"), ("NATM1", "NATM1"), ("cy", f"{ada}/cy.pt"), ("bo.wav", "")):
            key, prompt = await asked(bench, "", "ada", voice)
            assert (prompt.text, prompt.voice) == ("You are Ada.", known)
            assert (prompt.pcm is not None) == (voice == "bo.wav")
            bench.personas.drop_once(key)
            await settle()
            assert bench.sent.pop() == DropPrompt(key)
            assert bench.personas.choose("ada", "", key).call.prompt != key
        _, both = await asked(bench, "You are Eve.", "", "NATM1")
        assert (both.text, both.voice) == ("You are Eve.", "NATM1")


async def test_a_voice_that_cannot_be_read_is_refused_in_one_line(ada: Path) -> None:
    (ada / "no.wav").write_text("no sound")
    bench = Bench(ada)
    async with bench.running(), asyncio.timeout(PATIENCE_S):
        await bench.begin()
        for voice in ("no.wav", "missing.wav"):
            with pytest.raises(PromptRejected, match=r"^voice: [^\n]+$"):
                await bench.personas.prepare_once("", "ada", voice)
        assert bench.prepared() == []


async def test_a_prompt_for_one_call_is_not_prepared_again_after_a_restart(bench: Bench) -> None:
    own = await bench.begin()
    key, _ = await asked(bench, "You are Eve.", "ada")
    await bench.lose()
    with pytest.raises(PromptUnavailable):
        await bench.personas.prepare_once("You are Eve.", "ada")
    await bench.start()
    assert bench.prepared() == [own]
    assert bench.personas.choose("ada", "", key).call.prompt == ""


# Many.

MANY, EDITS = 200, 6


@pytest.mark.slow
async def test_over_many_personas_and_edits_the_engine_keeps_one_prompt_each_and_memory_is_flat(tmp_path: Path) -> None:
    bench, kept, held_bytes = Bench(tmp_path), set[str](), list[int]()
    names = [f"persona{number}" for number in range(MANY)]

    def answer() -> None:
        """Let the engine compute what it is sent, and drop what it is told to."""
        while bench.sent:
            message = bench.sent.pop(0)
            if isinstance(message, PreparePrompt):
                kept.add(message.key)
                bench.ready(message)
            elif isinstance(message, DropPrompt):
                kept.remove(message.key)

    async with bench.running(), asyncio.timeout(10 * PATIENCE_S):
        await bench.start()
        tracemalloc.start()
        for edit in range(EDITS):
            for name in names:
                bench.write(f"{name}.toml", f'prompt = "{name} in edit {edit}. {"x" * 3_000}"')
            await bench.personas.refresh()
            answer()
            served = {bench.personas.choose(name, "").call.prompt for name in names}
            assert (len(kept), kept) == (MANY, served)
            gc.collect()
            held_bytes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert max(held_bytes[2:]) < 1.05 * held_bytes[1], "the texts of one edit are 600 kB"
        for name in names:
            (tmp_path / f"{name}.toml").unlink()
        await bench.personas.refresh()
        answer()
        assert kept == set()
