"""A prompt that is prefilled and copied into a slot, against the same prompt stepped frame by frame."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import psutil
import pytest

from tests.scale import scaled
from tests.workers.engine.personaplex import Spoken
from tests.workers.engine.personaplex import spoken as stepped
from tests.workers.engine.small import ARGMAX, build, official, said, speech, talk
from workers.engine.delay_pattern import StepResult
from workers.engine.engine import Engine
from workers.engine.loopback import HashWords
from workers.engine.prompt import Prompt, PromptError, PromptSource, build_prompt
from workers.engine.prompt_queue import PromptQueue
from workers.engine.stage import EngineStage
from workers.engine.voice_file import VoiceEmbeddings
from workers.messages import CallPersona, CodeArray, Codes, Epoch, Message, Open, PreparePrompt, PromptReady, Slot

CONTEXT, LIVE, DIM, START = 64, 10, 128, 400
A, B = Slot(0), Slot(1)
Voice = CodeArray | VoiceEmbeddings | None
RNG = np.random.default_rng(3)
EMBEDDINGS = VoiceEmbeddings(
    RNG.normal(size=(9, DIM)).astype(np.float32), RNG.integers(0, START, (17, 4)).astype(np.int32)
)
VOICES: dict[str, Voice] = {"none": None, "wav": speech(77, 7), "pt": EMBEDDINGS}
TEXTS: dict[str, list[int]] = {"silent": [], "told": [7, 8, 9, 250, 11]}


def prompt_of(text: str, voice: str) -> Prompt:
    return build_prompt(TEXTS[text], VOICES[voice], START, 2048)


@cache
def expected(text: str, voice: str, call: int) -> list[Spoken]:
    return stepped(build(), TEXTS[text], VOICES[voice], speech(call, LIVE + 2))


def prepare(engine: Engine, key: str, prompt: Prompt, chunk: int = 128) -> None:
    prefill = engine.prefill_prompt(prompt)
    while prefill.done < prefill.total:
        prefill.advance(chunk)
    engine.prompts.add(key, prefill.prefix)


def spoken(steps: Sequence[StepResult]) -> list[Spoken]:
    """The text of every step but the last, and the frame that came a step later."""
    assert steps[0].codes is None, "the frame before is the prompt's"
    pairs = pairwise(steps)
    return [(step.text_token, [] if after.codes is None else after.codes.tolist()) for step, after in pairs]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("voice", VOICES)
def test_a_call_goes_on_from_a_prompt_as_if_it_had_been_stepped(text: str, voice: str) -> None:
    engine = Engine(build(), 1, ARGMAX, CONTEXT, takes_prompts=True)
    prepare(engine, "ada", prompt_of(text, voice))
    engine.open(A, prompt="ada")
    assert spoken(talk(engine, A, speech(5, LIVE + 1))) == expected(text, voice, 5)[:LIVE]


@pytest.mark.parametrize(
    ("dtype", "bits"), [pytest.param(mx.bfloat16, 4, marks=pytest.mark.slow), (mx.bfloat16, None)], ids=["q4", "bf16"]
)
def test_a_larger_model_quantised_or_not(dtype: mx.Dtype, bits: int | None) -> None:
    lm = build("mid", dtype, bits)
    voice = VoiceEmbeddings(RNG.normal(size=(9, 256)).astype(np.float32), EMBEDDINGS.cache)
    wanted = stepped(lm, TEXTS["told"], voice, speech(5, 6))  # before the engine takes the weights over
    engine = Engine(lm, 1, ARGMAX, CONTEXT, takes_prompts=True)
    prepare(engine, "ada", build_prompt(TEXTS["told"], voice, 1000, 2048))
    engine.open(A, prompt="ada")
    assert spoken(talk(engine, A, speech(5, 5))) == wanted[:4]


def test_sixteen_calls_with_prompts_of_their_own_begin_while_others_talk() -> None:
    """The n-th call begins at tick n with the n-th persona, and hears `speech(n)`; some pause now and then."""
    engine = Engine(build(), 16, ARGMAX, CONTEXT, takes_prompts=True)
    personas = [(text, voice) for text in TEXTS for voice in VOICES]
    for text, voice in personas:
        prepare(engine, text + voice, prompt_of(text, voice), chunk=5)
    steps: dict[Slot, list[StepResult]] = {}
    for tick in range(16 + LIVE + 8):
        if tick < 16:
            engine.open(Slot(tick), prompt="".join(personas[tick % len(personas)]))
            steps[Slot(tick)] = []
        talking = [slot for slot in steps if (slot + tick) % 5 and len(steps[slot]) <= LIVE]
        for slot, step in engine.step({slot: speech(slot, LIVE + 2)[len(steps[slot])] for slot in talking}).items():
            steps[slot].append(step)
    for slot, taken in steps.items():
        assert len(taken) == LIVE + 1
        assert spoken(taken) == expected(*personas[slot % len(personas)], slot)[:LIVE], f"slot {slot}"
    assert len({str(spoken(taken)) for taken in steps.values()}) == 16, "they differ"


def test_a_prompt_copied_many_times_is_the_one_computed_freshly_and_its_log_goes_on() -> None:
    engine = Engine(build(), 2, ARGMAX, CONTEXT, takes_prompts=True)
    prepare(engine, "often", prompt_of("told", "pt"), chunk=3)
    transcripts = []
    for key in ("often", "often", "fresh"):
        if key == "fresh":
            prepare(engine, key, prompt_of("told", "pt"))
        engine.open(B, prompt=key)
        transcripts.append(talk(engine, B, speech(5, LIVE + 1)))
        engine.close(B)
    assert spoken(transcripts[0]) == spoken(transcripts[1]) == spoken(transcripts[2])
    engine.open(A, prompt="often")
    engine.prefill(A, np.stack([step.log for step in transcripts[0][:4]]))
    rest = talk(engine, A, speech(5, LIVE + 1)[4:])
    assert [said(step) for step in rest] == [said(step) for step in transcripts[0][4:]]


@pytest.mark.parametrize("broken", [False, True], ids=["closed", "NaN"])
def test_no_persona_leaks_into_the_next_call_of_a_slot(broken: bool) -> None:
    plain = official(build(), speech(5, 9))
    engine = Engine(build(), 2, ARGMAX, CONTEXT, takes_prompts=True)
    prepare(engine, "ada", prompt_of("told", "wav"))
    engine.open(B, prompt="ada")
    talk(engine, B, speech(5, 3))
    if broken:
        engine._kv_cache.values[0][B, :, 1] = mx.nan
        assert talk(engine, B, speech(5, 1))[0].fault
    engine.close(B)
    engine.open(B)
    assert [said(step) for step in talk(engine, B, speech(5, 8))] == plain[:8]
    engine.close(B)
    engine.open(B, prompt="ada")
    assert spoken(talk(engine, B, speech(5, LIVE + 1))) == expected("told", "wav", 5)[:LIVE], "nor into the prompt"


def test_other_calls_are_untouched_while_a_prompt_is_computed_and_given_out() -> None:
    plain = official(build(), speech(2, 13))
    engine = Engine(build(), 2, ARGMAX, CONTEXT, takes_prompts=True)
    engine.open(A)
    prefill = engine.prefill_prompt(prompt_of("told", "pt"))
    steps = []
    for tick, frame in enumerate(speech(2, 12)):
        if prefill.done < prefill.total:
            prefill.advance(4)
        elif tick == 11:
            engine.prompts.add("ada", prefill.prefix)
            engine.open(B, prompt="ada")
        steps += talk(engine, A, frame[None])
    assert [said(step) for step in steps] == plain[:12]
    assert spoken(talk(engine, B, speech(5, LIVE + 1))) == expected("told", "pt", 5)[:LIVE]


def test_giving_a_prompt_out_copies_the_prompt_and_nothing_else() -> None:
    engine = Engine(build(), 4, ARGMAX, context=3000, takes_prompts=True)
    prepare(engine, "ada", prompt_of("told", "pt"))
    engine.open(A)
    talk(engine, A, speech(0, 2))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    engine.open(B, prompt="ada")
    assert mx.get_peak_memory() - before < engine._kv_cache.keys[0].nbytes / 10


def test_a_prompt_takes_its_keys_and_values_and_two_hundred_take_no_more_than_there_is_for_them() -> None:
    engine = Engine(build(), 1, ARGMAX, CONTEXT, takes_prompts=True)
    prompts = [build_prompt([7] * words, VOICES["wav"], START, 2048) for words in range(5)]
    prepare(engine, "first", prompts[0])
    assert engine.prompts.nbytes == prompts[0].positions * 2 * 2 * DIM * 4, "keys and values of two layers in f32"
    engine.prompts.most_bytes = 5 * engine.prompts.nbytes
    held = []
    for number in range(200):
        prepare(engine, str(number), prompts[number % 5])
        assert engine.prompts.nbytes <= engine.prompts.most_bytes
        held.append(mx.get_active_memory())
    assert engine.prompts.keys == [str(number) for number in range(196, 200)]
    assert held[10:15] * 38 == held[10:]


@pytest.mark.slow
def test_two_hundred_long_personas_leave_the_process_as_large_as_fifty_do() -> None:
    engine = Engine(build(), 1, ARGMAX, takes_prompts=True)
    process, size = psutil.Process(), []
    for number in range(scaled(200, least=40)):
        prepare(engine, str(number), build_prompt([], speech(number, 200 + number % 50), START, 2048))
        size.append(process.memory_info().rss)
    assert max(size[len(size) // 4 :]) - size[len(size) // 4] < 16 << 20, "they would be 60 MiB"


def test_through_the_stage_a_call_begins_with_the_persona_that_it_names(tmp_path: Path) -> None:
    mx.save_safetensors(
        str(tmp_path / "NATF0.safetensors"),
        {"embeddings": mx.array(EMBEDDINGS.embeddings[:, None, None]), "cache": mx.array(EMBEDDINGS.cache[None])},
    )
    engine = Engine(build(), 2, ARGMAX, CONTEXT, takes_prompts=True)
    tokens_of, voice_file = {"": TEXTS["silent"]}, lambda name: tmp_path / f"{name}.safetensors"
    source = PromptSource(lambda text: tokens_of.get(text, TEXTS["told"]), voice_file, engine.initial_tokens)
    stage = EngineStage(engine, HashWords(), prompts=PromptQueue(engine, source.read))
    personas = {A: ("told", "pt"), B: ("silent", "wav")}
    stage.receive(PreparePrompt("0", "Be kind.", "NATF0"))
    stage.receive(PreparePrompt("1", "", codes=VOICES["wav"]))  # type: ignore[arg-type]
    answers: list[Message] = []
    while len(answers) < 2:
        answers += stage.work()
    assert [answer.key for answer in answers if isinstance(answer, PromptReady)] == ["0", "1"]
    for slot in personas:
        stage.receive(Open(slot, Epoch(1), persona=CallPersona(prompt=str(slot))))
    said: dict[Slot, list[Codes]] = {slot: [] for slot in personas}
    for seq in range(LIVE + 1):
        for slot in personas:
            stage.receive(Codes(slot, Epoch(1), seq, speech(slot, LIVE + 2)[seq]))
        for message in stage.work():
            assert isinstance(message, Codes)
            said[message.slot].append(message)
    for slot, messages in said.items():
        came = [StepResult(int(message.text, 16), message.codes) for message in messages]
        assert spoken(came) == expected(*personas[slot], slot)[:LIVE]


def test_what_cannot_be_a_prompt_is_refused_and_evicts_nothing() -> None:
    engine = Engine(build(), 1, ARGMAX, CONTEXT, takes_prompts=True)
    prepare(engine, "ada", prompt_of("told", "wav"))
    wide = VoiceEmbeddings(np.ones((3, 2 * DIM), np.float32), EMBEDDINGS.cache)
    wrong = VoiceEmbeddings(EMBEDDINGS.embeddings, EMBEDDINGS.cache + 3000)
    endless = VoiceEmbeddings(np.full((3, DIM), np.nan, np.float32), EMBEDDINGS.cache)
    bad: dict[str, Voice] = {"256 wide": wide, "tokens": wrong, "NaN": endless, "it takes 81 steps": speech(0, 70)}
    for reason, voice in bad.items():
        with pytest.raises(PromptError, match=reason):
            prepare(engine, "bad", build_prompt([], voice, START, 2048))
    with pytest.raises(PromptError, match="0 MiB"):
        Engine(build(), 1, ARGMAX, CONTEXT).prefill_prompt(prompt_of("told", "wav"))
    assert engine.prompts.keys == ["ada"]
    with pytest.raises(KeyError):
        engine.open(A, prompt="bad")
