"""Prompts for one call each, before a pipeline and on a clock in our hands."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from app.calls.prompts import PromptRejected, PromptUnavailable
from app.server import one_time_prompts
from app.server.one_time_prompts import EXPIRES_S, MOST_PROMPTS, OneTimePrompts
from tests.app.calls.front import settle
from workers.messages import DropPrompt, PreparePrompt, PromptMessage, PromptReady, PromptRefused

TEXT = PreparePrompt("", "You are Ada.", "NATF0")


@dataclass
class Bench:
    """`kept` are the prompts that the engine computes or has."""

    now_s: float = 0.0
    kept: dict[str, PreparePrompt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prompts = OneTimePrompts(self._send, lambda: self.now_s)

    def _send(self, message: PromptMessage) -> None:
        if isinstance(message, PreparePrompt):
            self.kept[message.key] = message
        else:
            assert isinstance(message, DropPrompt)
            del self.kept[message.key]

    async def ask(self) -> "asyncio.Task[str]":
        """Return the task that waits for the newest prompt."""
        task = asyncio.create_task(self.prompts.prepare(TEXT))
        await settle()
        return task

    async def ready(self) -> str:
        task = await self.ask()
        self.prompts.on_answer(PromptReady([*self.kept][-1], 20, 1_000))
        return await task


async def test_a_prompt_is_opened_with_once_and_dropped_after_the_opening() -> None:
    bench = Bench()
    key, other = await bench.ready(), await bench.ready()
    assert key != other
    assert (bench.kept[key].text, bench.kept[key].voice) == ("You are Ada.", "NATF0")
    assert (bench.prompts.use(key), bench.prompts.use(key)) == (replace(TEXT, key=key), None)
    assert key in bench.kept, "the call is not opened yet"
    await settle()
    assert [*bench.kept] == [other]


async def test_an_id_that_is_not_used_within_ten_minutes_expires() -> None:
    bench = Bench()
    early, late = await bench.ready(), ""
    bench.now_s = EXPIRES_S - 1
    late = await bench.ready()
    bench.prompts.expire()
    assert [*bench.kept] == [early, late]
    bench.now_s = EXPIRES_S
    assert bench.prompts.use(early) is None, "before anybody has looked"
    bench.prompts.expire()
    assert [*bench.kept] == [late]
    assert bench.prompts.use(late) == replace(TEXT, key=late)


async def test_no_other_key_can_be_used() -> None:
    bench = Bench()
    task = await bench.ask()
    assert [bench.prompts.use(key) for key in ("", "the key of a persona", *bench.kept)] == [None] * 3
    task.cancel()
    await settle()
    assert bench.kept == {}, "nobody waits for it any more"


async def test_what_the_engine_refuses_is_its_line_and_nothing_stays() -> None:
    bench = Bench()
    task = await bench.ask()
    bench.prompts.on_answer(PromptRefused(next(iter(bench.kept)), "this checkpoint takes no prompt"))
    with pytest.raises(PromptRejected, match=r"\Athis checkpoint takes no prompt\Z"):
        await task
    for _ in range(MOST_PROMPTS):
        await bench.ready()


async def test_their_number_is_bounded_and_each_call_makes_room() -> None:
    bench = Bench()
    keys = [await bench.ready() for _ in range(MOST_PROMPTS - 1)]
    computed = await bench.ask()
    with pytest.raises(PromptUnavailable, match="4 prompts wait for their calls already"):
        await bench.prompts.prepare(TEXT)
    assert len(bench.kept) == MOST_PROMPTS
    bench.prompts.use(keys[0])
    await bench.ready()
    computed.cancel()


async def test_one_that_is_not_computed_in_time_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_time_prompts, "PREPARE_WITHIN_S", 0.001)
    bench = Bench()
    with pytest.raises(PromptUnavailable, match="not computed within"):
        await bench.prompts.prepare(TEXT)
    assert bench.kept == {}


async def test_with_the_pipeline_they_are_lost() -> None:
    bench = Bench()
    key, task = await bench.ready(), await bench.ask()
    bench.kept.clear()
    bench.prompts.on_pipeline_lost()
    with pytest.raises(PromptUnavailable, match="the pipeline was lost"):
        await task
    bench.now_s = EXPIRES_S
    bench.prompts.expire()
    assert bench.prompts.use(key) is None
