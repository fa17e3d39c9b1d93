"""A greeting and a sentence in words through the real workers, on a Moshi with random weights."""

from dataclasses import replace

import numpy as np
import pytest

from tests.processes.pipeline import SupervisedPipeline, running
from tests.processes.test_parrot_call import codes_of
from tests.synthetic import synthetic_cache
from tests.workers.config import LOOPBACK
from workers.checkpoints.files import files_in
from workers.checkpoints.synthetic import make_synthetic
from workers.messages import CODEBOOKS, FRAME_SAMPLES, CallPersona, Epoch, Frame, Open, Said, Say, Slot

SLOT, EPOCH = Slot(0), Epoch(1)
GREETING = "Hello! I'm Ada."
NOISE = np.random.default_rng(1).normal(0, 0.1, (200, FRAME_SAMPLES)).astype(np.float32)
SILENCE = [np.zeros(FRAME_SAMPLES, np.float32)] * 25


async def speak(pipeline: SupervisedPipeline, start: int, sentence: int) -> list[Frame]:
    """Send noise, from frame `start` on, until this is said; return the frames that came, one more behind it too."""
    frames: list[Frame] = []
    for seq in range(start, len(NOISE)):
        pipeline.supervisor.send(Frame(SLOT, EPOCH, seq, NOISE[seq]))
        while len(frames) <= seq - start:
            match await pipeline.next_message():
                case Frame() as frame:
                    frames.append(frame)
                case Said() as said:
                    assert said == Said(SLOT, EPOCH, sentence, whole=True)
                    frames.append(await pipeline.next_frame())
                    return frames
    raise AssertionError("it was not said")


def caller_codes(frame: Frame) -> list[int]:
    codes: list[int] = np.frombuffer(frame.tokens, "<i2")[-CODEBOOKS:].tolist()
    return codes


@pytest.mark.slow
async def test_a_greeting_is_said_in_silence_and_a_sentence_while_the_caller_is_heard(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cache = synthetic_cache(tmp_path_factory)
    files = files_in(make_synthetic("random:tiny:f32", cache), "synthetic:random")
    model = replace(LOOPBACK, engine="mlx", codec="numpy", checkpoint="synthetic:random:tiny:f32")
    async with running(replace(model, cache=cache, context=256)) as pipeline:
        pipeline.supervisor.send(Open(SLOT, EPOCH, seed=1, persona=CallPersona(GREETING)))
        greeting = await speak(pipeline, 0, 0)
        pipeline.supervisor.send(Say(SLOT, EPOCH, 1, "One \ud800 more."))
        sentence = await speak(pipeline, len(greeting), 1)
    assert "".join(frame.text for frame in greeting[:-1]).endswith(" " + GREETING)
    assert "".join(frame.text for frame in sentence[:-1]).endswith(" One ? more.")
    silence, noise = (codes_of(files.mimi, list(pcm))[0].T for pcm in (SILENCE, NOISE))
    heard = [*silence, *[silence[-1]] * len(NOISE)][: len(greeting) - 1] + [*noise][len(greeting) - 1 :]
    for frame in greeting + sentence:
        assert caller_codes(frame) == heard[frame.seq].tolist()
