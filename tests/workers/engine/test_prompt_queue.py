"""Prompts beside calls: a pass over n positions takes 10 ms and n ms more, on the clock of the test."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from tests.workers.engine.test_stage import A, B, Parrot, closed, heard, opened, receive
from workers.checkpoints.files import Files
from workers.checkpoints.voices import find_voice
from workers.control_messages import Relink
from workers.engine.delay_pattern import Beginning
from workers.engine.engine import Engine
from workers.engine.kv_cache import KVCache
from workers.engine.prefix_cache import Prefix, PrefixCache
from workers.engine.prompt import CHUNKS, Prompt, PromptError, PromptSource
from workers.engine.prompt_queue import NO_PROMPT, PrefillPace, PromptQueue
from workers.engine.stage import EngineStage
from workers.messages import (
    FRAME_S,
    CallPersona,
    DropPrompt,
    Epoch,
    Message,
    Open,
    PreparePrompt,
    PromptReady,
    PromptRefused,
    SamplingChanges,
    Slot,
)

POSITIONS = 250
PASS_S, POSITION_S = 0.010, 0.001
NO_CODES = np.zeros(8, np.int32)


@dataclass
class Computation:
    engine: "Computer"
    total: int
    done: int = 0

    def advance(self, most: int) -> int:
        positions = min(most, self.total - self.done)
        self.engine.now += PASS_S + POSITION_S * positions
        self.engine.chunks.append(positions)
        self.done += positions
        return positions

    @property
    def prefix(self) -> Prefix:
        cache = KVCache([mx.zeros(self.total, mx.int8)], [])
        return Prefix(cache, Beginning(self.total, NO_CODES, NO_CODES, NO_CODES))


@dataclass
class Computer(Parrot):
    """Keeps two prompts of `POSITIONS` bytes."""

    takes_prompts: bool = True
    prefill_s: dict[int, float] = field(default_factory=lambda: {n: PASS_S + POSITION_S * n for n in CHUNKS})
    prompts: PrefixCache = field(default_factory=lambda: PrefixCache(2 * POSITIONS))
    chunks: list[int] = field(default_factory=list)
    begun_with: list[str] = field(default_factory=list)

    def open(self, slot: Slot, seed: int | None = None, sampling: SamplingChanges = (), prompt: str = "") -> None:
        super().open(slot, seed, sampling)
        self.begun_with.append(prompt)

    def prefill_prompt(self, prompt: Prompt) -> Computation:
        assert self.prompts.reserve(POSITIONS)
        return Computation(self, POSITIONS)


@dataclass
class Bench:
    """A stage with prompts, and what it has sent on; a key that begins with "bad" cannot be read."""

    engine: Computer = field(default_factory=Computer)
    checkpoint: str = ""
    sent: list[Message] = field(default_factory=list)
    progress: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        prompts = PromptQueue(cast(Engine, self.engine), self.read, self.report, self.clock)
        self.stage = EngineStage(self.engine, None, self.clock, prompts, self.checkpoint, self.report)

    def clock(self) -> float:
        return self.engine.now

    def report(self, *report: Any) -> None:
        self.progress.append(report)

    def read(self, message: PreparePrompt) -> Prompt:
        if message.key == "bad":
            raise PromptError("its voice is too deep")
        if message.key == "bad, and unforeseen":
            raise ZeroDivisionError
        return cast(Prompt, None)

    def receive(self, *messages: Message) -> None:
        self.sent += receive(self.stage, *messages)

    def work(self, until_s: float = float("inf")) -> None:
        """Work while something is due at once; time goes on to `until_s`."""
        while self.stage.due_s() == 0.0 and self.engine.now < until_s:
            self.sent += self.stage.work()
        if until_s != float("inf"):
            self.engine.now = max(self.engine.now, until_s)

    def talk(self, frames: Iterable[int], slots: tuple[Slot, ...] = (A, B)) -> list[float]:
        """Let frames come every 80 ms; return how late each was stepped."""
        late_s, start_s = [], self.engine.now
        for number, frame in enumerate(frames):
            came_s = start_s + number * FRAME_S
            late_s.append(self.engine.now - came_s)
            self.receive(*(heard(frame, slot) for slot in slots))
            self.work(until_s=came_s + FRAME_S)
        return late_s

    def answers(self) -> list[Message]:
        return [message for message in self.sent if isinstance(message, PromptReady | PromptRefused)]


def wanted(key: str = "ada") -> PreparePrompt:
    return PreparePrompt(key, "Be kind.")


def begins(key: str, slot: Slot = A) -> Open:
    return Open(slot, Epoch(1), persona=CallPersona(prompt=key))


def ready(key: str = "ada") -> PromptReady:
    return PromptReady(key, POSITIONS, POSITIONS)


def test_while_no_call_is_on_a_prompt_is_computed_at_once_and_shows_its_progress() -> None:
    bench = Bench()
    bench.receive(wanted())
    bench.work()
    assert bench.answers() == [ready()]
    assert [done for _, done, _ in bench.progress] == np.cumsum(bench.engine.chunks).tolist()
    assert max(bench.engine.chunks) >= 64
    bench.receive(wanted(), begins("ada"))
    assert bench.answers() == [ready(), ready()], "known already"
    assert bench.engine.begun_with == ["ada"]


def test_a_call_that_is_opened_meanwhile_is_served_between_two_chunks() -> None:
    bench = Bench()
    bench.receive(wanted())
    for _ in range(4):
        bench.stage.work()
    bench.receive(opened(A), heard(1, A))
    bench.stage.work()
    assert bench.engine.steps_run == [{A: 1}]
    assert bench.answers() == []


@pytest.mark.parametrize("step_s", [0.005, 0.030, 0.050])
def test_while_calls_are_on_chunks_fit_between_their_steps(step_s: float) -> None:
    bench = Bench(Computer(step_s=step_s))
    bench.receive(opened(A), opened(B))
    bench.talk(range(5))
    bench.receive(wanted())
    late_s = bench.talk(range(100))
    assert bench.answers() == [ready()]
    assert max(late_s) == pytest.approx(0)
    largest = max(bench.engine.chunks)
    assert PASS_S + POSITION_S * largest <= FRAME_S - step_s < PASS_S + POSITION_S * 4 * largest


def test_where_a_step_leaves_no_time_a_prompt_waits_until_the_calls_are_over() -> None:
    bench = Bench(Computer(step_s=0.075))
    bench.receive(opened(A), opened(B))
    bench.talk(range(5))
    bench.receive(wanted())
    assert max(bench.talk(range(50))) == pytest.approx(0)
    assert bench.engine.chunks == []
    assert (bench.stage.due_s() or 0) > bench.engine.now, "it looks again later"
    bench.receive(closed(A), closed(B))
    bench.work()
    assert bench.answers() == [ready()]


def test_one_slow_pass_does_not_make_prompts_wait_for_ever() -> None:
    assert PrefillPace({}).chunk(0.05) == 0, "nothing is known"
    pace = PrefillPace({1: 0.9})
    assert pace.chunk(0.05) == 0
    for _ in range(2):
        pace.took(1, 0.01)
    assert pace.chunk(0.05) == 4, "twice as many positions take at most twice as long"
    pace.took(5, 0.011)
    assert pace.chunk(0.05) == 16
    assert pace.chunk(0.005) == 0


def test_what_was_used_least_recently_is_evicted_and_computed_again_when_a_call_begins_with_it() -> None:
    bench = Bench()
    for key in ("ada", "ben"):
        bench.receive(wanted(key))
        bench.work()
    bench.receive(begins("ada"), closed(A), wanted("eve"))
    bench.work()
    assert bench.engine.prompts.keys == ["ada", "eve"]
    bench.receive(begins("ben"))
    assert bench.engine.begun_with == ["ada", "ben"], "computed while the call waited, since no other is on"
    bench.receive(begins("ada", B))
    assert bench.engine.begun_with[-1] == "", "a call that is on is not kept waiting"
    bench.talk(range(60))
    assert "ada" in bench.engine.prompts.keys, "but the next one is served"
    assert [answer.key for answer in bench.answers() if isinstance(answer, PromptReady)][-1] == "ada"


def test_200_prompts_take_no_more_memory_than_the_store_may_and_each_is_known() -> None:
    bench, held_bytes = Bench(), list[int]()
    keys = [f"persona {number}" for number in range(200)]
    for key in [*keys, *keys]:
        bench.receive(wanted(key))
        bench.work()
        bench.receive(begins(key), closed(A))
        held_bytes.append(bench.engine.prompts.nbytes)
    assert max(held_bytes) == 2 * POSITIONS
    assert bench.engine.prompts.keys == keys[-2:]
    assert bench.engine.begun_with == [*keys, *keys]
    bench.receive(*(DropPrompt(key) for key in keys))
    assert bench.engine.prompts.nbytes == 0


def test_with_another_codec_prompts_are_asked_for_again_and_those_computed_are_there() -> None:
    bench = Bench()
    bench.receive(wanted("ada"))
    bench.work()
    bench.receive(wanted("bob"))
    bench.stage.work()
    computed = len(bench.engine.chunks)
    bench.stage.receive(Relink())
    assert bench.stage.due_s() is None
    bench.receive(wanted("ada"), begins("ada"))
    assert bench.answers() == [ready("ada"), ready("ada")]
    assert len(bench.engine.chunks) == computed
    assert bench.engine.begun_with == ["ada"]


def test_an_unknown_or_dropped_prompt_is_begun_without() -> None:
    bench = Bench()
    bench.receive(wanted("ada"), wanted("ben"))
    bench.stage.work()
    bench.stage.work()
    bench.receive(DropPrompt("ada"))
    bench.work()
    assert bench.answers() == [ready("ben")]
    bench.receive(DropPrompt("ben"), begins("ada", A), begins("ben", B))
    assert bench.engine.begun_with == ["", ""]
    assert bench.engine.prompts.keys == []


@pytest.mark.parametrize(("key", "reason"), [("bad", "its voice is too deep"), ("bad, and unforeseen", "an error")])
def test_a_prompt_that_cannot_be_read_is_refused_and_the_next_one_is_computed(key: str, reason: str) -> None:
    bench = Bench()
    bench.receive(wanted(key), wanted("ada"))
    bench.work()
    refused, other = bench.answers()
    assert isinstance(refused, PromptRefused)
    assert refused.reason.startswith(reason)
    assert other == ready("ada")


@pytest.mark.parametrize(
    "what", [{"text": "Be kind."}, {"text": "", "voice": "NATF0"}, {"text": "", "codes": NO_CODES}]
)
def test_a_checkpoint_without_prompts_refuses_texts_and_voices(what: dict[str, Any]) -> None:
    for stage in (EngineStage(Parrot(), None), Bench(Computer(takes_prompts=False)).stage):
        assert stage.receive(PreparePrompt("ada", **what)) == [PromptRefused("ada", NO_PROMPT)]
        stage.receive(begins("ada"))


def test_answers_of_the_encoder_pass() -> None:
    refused = PromptRefused("ada", "its voice cannot be encoded")
    assert Bench().stage.receive(refused) == [refused]


VOICE = Path(__file__).parent / "voices" / "torch-2.9.1.pt"


def source(voices: Path) -> PromptSource:
    files = Files(None, Path(), Path(), Path(), voices=voices)
    return PromptSource(lambda text: [len(word) for word in text.split()], partial(find_voice, files), (400, 2048))


def test_a_voice_is_a_file_or_a_name_of_the_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "NATF0.pt").write_bytes(VOICE.read_bytes())
    voices = (str(VOICE), "NATF0")
    prompts = [source(tmp_path).read(PreparePrompt("ada", "be kind", voice)) for voice in voices]
    assert all(len(prompt.embeddings) == 3 for prompt in prompts)
    assert all(prompt.tokens[7:11, 0].tolist() == [8, 2, 4, 8] for prompt in prompts), "<system> be kind <system>"


def test_a_name_is_no_file_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "NATF0").write_bytes(VOICE.read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PromptError, match="has no voice NATF0"):
        source(tmp_path).read(PreparePrompt("ada", "be kind", "NATF0"))


BAD_SOURCES: dict[str, partial[PreparePrompt]] = {
    "its text has 501 tokens, more than 500": partial(PreparePrompt, text="a " * 499),
    "the checkpoint has no voice NATF9; it has NATF0": partial(PreparePrompt, text="", voice="NATF9"),
    "'../passwd' is no voice's name": partial(PreparePrompt, text="", voice="../passwd"),
    "its voice broken.pt: is no voice of PyTorch's": partial(PreparePrompt, text="", voice="broken"),
    "its voice has 1001 frames, more than 1000": partial(PreparePrompt, text="", codes=np.zeros((1001, 8), np.int32)),
    "its voice is no codes": partial(PreparePrompt, text="", codes=np.full((2, 8), 2048, np.int32)),
    "its voice is no codes of": partial(PreparePrompt, text="", codes=np.zeros((0, 8), np.int32)),
}


@pytest.mark.parametrize("reason", BAD_SOURCES)
def test_a_bad_source_is_refused_in_one_line(tmp_path: Path, reason: str) -> None:
    (tmp_path / "NATF0.pt").write_bytes(VOICE.read_bytes())
    if "broken" in reason:
        (tmp_path / "broken.pt").write_bytes(VOICE.read_bytes()[:-100])
    with pytest.raises(PromptError) as refused:
        source(tmp_path).read(BAD_SOURCES[reason]("key"))
    assert str(refused.value).startswith(reason)
    assert "\n" not in str(refused.value)
