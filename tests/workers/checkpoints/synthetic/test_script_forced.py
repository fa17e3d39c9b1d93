"""Text forced in the batched engine is heard: the script's weights, real tokenizer and codec, against the oracle."""

import random

import numpy as np
import pytest
import rustymimi

from tests.workers.checkpoints.synthetic.conftest import Made
from tests.workers.checkpoints.synthetic.official import Codes, byte_of, load, turns
from tests.workers.checkpoints.synthetic.test_script_lm import caller_codes
from tests.workers.codec.sounds import snr_db
from workers.checkpoints.files import MIMI, TOKENIZER
from workers.checkpoints.synthetic.phrases import recorded_words
from workers.checkpoints.synthetic.script import Activity, hearing_at, script
from workers.checkpoints.synthetic.script_oracle import SpokenOracle, SpokenStep, greet, sound
from workers.engine.engine import Engine
from workers.engine.sampling import SamplingSettings
from workers.engine.steering import WORD_WITHIN_STEPS, Force, ForceMode, SentenceEnd, Steering, WordPart
from workers.engine.text import Tokenizer
from workers.messages import FRAME_SAMPLES, Pcm, Slot

GREETING = "Hello! I'm Ada from Northside Dental, how can I help you?"
MOMENT = "One moment please, I will pass you on."
SLOT = Slot(0)
PADDING, WORD_FOLLOWS = 3, 0


class ForcedCall:
    """One call in the engine; it says what is added to `steering`, and the oracle says what should come of it."""

    def __init__(self, made: Made) -> None:
        folder = made("script")
        self.tokenizer = Tokenizer(folder / TOKENIZER)
        self.mimi = rustymimi.Tokenizer(str(folder / MIMI), num_codebooks=8)
        self.engine = Engine(load(folder), 1, SamplingSettings(), word_parts=self.tokenizer.word_parts)
        self.engine.open(SLOT)
        self.steering, self.over = Steering(), list[SentenceEnd]()
        self.tokens, self.frames = list[int](), list[list[int]]()

    def say(self, sentence: int, text: str) -> None:
        self.steering.add(sentence, self.tokenizer.words(text))

    def run(self, heard: Codes) -> None:
        for frame in heard:
            result = self.engine.step({SLOT: frame}, {SLOT: self.steering.next()})[SLOT]
            self.over += self.steering.advance(result.text_token)
            self.tokens.append(result.text_token)
            self.frames += [] if result.codes is None else [result.codes.tolist()]

    @property
    def transcript(self) -> str:
        decode = self.tokenizer.decoder()
        return "".join(map(decode, self.tokens)).strip()

    @property
    def pcm(self) -> Pcm:
        codes = np.array(self.frames).T[None].astype(np.uint32)
        pcm: Pcm = self.mimi.decode_step(np.ascontiguousarray(codes))[0, 0]
        return pcm

    def predicted(self, caller: Activity, sentences: dict[int, str]) -> list[SpokenStep]:
        """Return what the oracle says of this caller when these sentences are added at their steps."""
        oracle, steering, steps = SpokenOracle(), Steering(), []
        for step in range(len(caller)):
            if step in sentences:
                steering.add(step, self.tokenizer.words(sentences[step]))

            def choose(sampled: int) -> int:
                return forced(steering.next(), sampled, self.tokenizer.word_parts[sampled])

            steps.append(oracle.step(hearing_at(caller, step), choose))
            steering.advance(steps[-1].token)
        return steps

    def check(self, steps: list[SpokenStep]) -> None:
        assert self.tokens == [step.token for step in steps]
        assert self.frames == [step.codes.tolist() for step in steps[:-1]]
        assert snr_db(sound(steps[:-1]), self.pcm) > 25


def forced(force: Force, sampled: int, part: WordPart) -> int:
    """The rule of `Force`, in words of its own."""
    match force.mode:
        case ForceMode.ALWAYS:
            return force.token
        case ForceMode.AT_WORD | ForceMode.AT_NEXT_WORD if part is WordPart.BEGINNING:
            return force.token
        case ForceMode.AT_NEXT_WORD if part is WordPart.CONTINUATION:
            return PADDING
    return sampled


def recording(text: str) -> Pcm:
    """Return the words one after the other, without the pauses between them."""
    return np.concatenate([recorded_words()[word.strip(",.!?")] for word in text.split()])


def voiced(pcm: Pcm) -> Pcm:
    """Leave out the silent frames."""
    frames = pcm.reshape(-1, FRAME_SAMPLES)
    spoken: Pcm = frames[np.abs(frames).max(axis=1) > 1e-3].reshape(-1)
    return spoken


@pytest.fixture
def call(made: Made) -> ForcedCall:
    return ForcedCall(made)


@pytest.mark.slow
def test_what_is_said_in_mid_call_is_heard_whatever_the_caller_does(call: ForcedCall) -> None:
    """Once while Moshi listens to a caller who never pauses, once in place of the reply that the caller then gets."""
    caller = turns(0, 120, 60, 3, 30)
    call.run(caller_codes(caller)[:20])
    call.say(20, MOMENT)
    call.run(caller_codes(caller)[20:140])
    call.say(140, "Goodbye.")
    call.run(caller_codes(caller)[140:])
    steps = call.predicted(caller, {20: MOMENT, 140: "Goodbye."})
    call.check(steps)
    assert call.tokens[20 + WORD_WITHIN_STEPS] == WORD_FOLLOWS, "Moshi listens and is made to begin"
    assert MOMENT in call.transcript
    assert "Goodbye." in call.transcript
    assert call.over == [SentenceEnd(20, whole=True), SentenceEnd(140, whole=True)]
    spoken = [step for step in steps if step.state is None]
    assert np.array_equal(voiced(sound(spoken)), voiced(recording(f"{MOMENT} Goodbye.")))


def test_after_the_last_word_the_script_goes_on(call: ForcedCall) -> None:
    caller = turns(100, 10, 60)
    call.say(0, GREETING)
    call.run(caller_codes(caller))
    call.check(call.predicted(caller, {0: GREETING}))
    assert call.transcript.split() == f"{GREETING} {script().phrases[1].text}".split()


def test_a_greeting_is_heard_word_for_word_and_needs_no_engine_to_be_predicted(call: ForcedCall) -> None:
    """The caller talks all the time and is not heard before the last word, as with a persona."""
    caller = turns(0, 130)
    call.say(0, GREETING)
    for frame in caller_codes(caller):
        call.run(frame[None] * (call.steering.sentence is None))
    call.check(greet(caller, GREETING))
    assert call.over == [SentenceEnd(0, whole=True)]
    assert call.transcript == GREETING
    assert snr_db(voiced(recording(GREETING)), voiced(call.pcm)) > 25


def test_what_has_no_recording_is_heard_as_the_tones_of_its_bytes(call: ForcedCall) -> None:
    said = "Ada, 24 zebras é😀!"
    caller = turns(0, 80)
    call.say(0, said)
    call.run(caller_codes(caller))
    call.check(call.predicted(caller, {0: said}))
    heard = bytes(byte for frame in call.pcm.reshape(-1, FRAME_SAMPLES) if (byte := byte_of(frame)) is not None)
    assert heard == "24zebrasé😀".encode()
    assert call.transcript == said


def test_marks_without_end_and_bytes_in_mid_word_do_not_stop_a_text(call: ForcedCall) -> None:
    said = "Hello!!!!!!!!!!!!, , Hellox you"
    caller = turns(0, 60)
    call.say(0, said)
    call.run(caller_codes(caller))
    call.check(call.predicted(caller, {0: said}))
    assert call.transcript == said
    assert call.over == [SentenceEnd(0, whole=True)]


@pytest.mark.slow
def test_random_texts_are_heard_as_predicted(call: ForcedCall) -> None:
    rng = random.Random(13)
    words = [*recorded_words(), ",", "7", "é", "\x00", "▁", "<0x41>", "日本", "Hello,this", "  "]
    sentences = {
        step: "".join(rng.choice([" ", " ", ""]) + rng.choice(words) for _ in range(5)) for step in range(0, 200, 9)
    }
    caller = np.repeat(np.array([rng.random() < 0.6 for _ in range(300)])[:, None], 2, axis=1)
    for step, frame in enumerate(caller_codes(caller)):
        if step in sentences:
            call.say(step, sentences[step])
        call.run(frame[None])
    call.check(call.predicted(caller, sentences))
