"""`synthetic:stt` through Kyutai's own code: moshi_mlx's `LmGen` writes down what the demo's caller says.

What is said, and when, is stated by the recordings' own list, their texts and espeak's onsets, and by the frames in
which the tokens were put.
"""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from moshi_mlx.models import LmGen
from moshi_mlx.utils import Sampler

from app.audio.resample import Interpolator
from app.simulator.conversation import CONVERSATION, FOLDER, recording
from tests.workers.checkpoints.synthetic.conftest import Made
from tests.workers.checkpoints.synthetic.official import Codes, load
from workers.checkpoints.files import MIMI, TOKENIZER
from workers.checkpoints.synthetic.caller_speech import utterances
from workers.codec.choose import make_codec
from workers.codec.mimi import Mimi
from workers.engine.text import Tokenizer
from workers.messages import FRAME_SAMPLES, Slot, Stage
from workers.transcriber.words import TimedWord, WordTimer

SLOT = Slot(0)
SAID = {utterance.name: utterance for utterance in utterances()}
TEXTS = {entry["name"]: entry for entry in json.loads((FOLDER / "caller.json").read_text())}


@pytest.fixture(scope="module")
def encoder(made: Made) -> Mimi:
    return make_codec(Stage.ENCODE, "numpy", made("stt") / MIMI, 1, codebooks=32)


def heard(encoder: Mimi, begin_ms: int, names: list[str]) -> Codes:
    """Return all codes of a call in which these recordings are said, 80 ms of silence and more between them."""
    parts = [np.zeros(begin_ms * 8, np.int16)]
    for name in names:
        parts += [recording(name), np.zeros(8_000 - len(recording(name)) % 640, np.int16)]
    pcm = Interpolator().push(np.concatenate(parts).astype(np.float32) / np.float32(32_768))
    encoder.open(SLOT)
    frames = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    return np.array([encoder.run({SLOT: frame})[SLOT] for frame in frames], np.int32)


def written(folder: Path, codes: Codes) -> tuple[list[TimedWord], list[float]]:
    """Return what the official model writes, and when turns are over."""
    generator = LmGen(load(folder), len(codes) + 1, Sampler(temp=0.0), Sampler(temp=0.0))
    timer = WordTimer(6, 0, Tokenizer(folder / TOKENIZER).decoder())
    words, turns = [], []
    for frame, following in enumerate([*codes[1:], codes[0]]):
        token, heads = generator.step_with_extra_heads(mx.array(following[None]))
        if word := timer.step(int(token.item()), frame):
            words.append(word)
        if heads[2].reshape(-1)[0].item() > 0.5:
            turns.append(frame * 0.08)
    return words, turns


@pytest.mark.parametrize("begin_ms", [800, *(pytest.param(ms, marks=pytest.mark.slow) for ms in (820, 840, 860))])
def test_the_words_of_the_caller_with_their_times_wherever_frames_begin(
    made: Made, encoder: Mimi, begin_ms: int
) -> None:
    for name, entry in TEXTS.items():
        words, turns = written(made("stt"), heard(encoder, begin_ms, [name]))
        assert [word.text for word in words] == entry["text"].split()
        onsets = [(begin_ms + onset_ms) / 1000 for onset_ms in entry["onsets_ms"]]
        assert [word.start_s for word in words] == pytest.approx(onsets, abs=0.24), "a frame has one token"
        starts_s = SAID[name].starts_s(begin_ms // 20 % 4)
        assert [word.start_s - begin_ms / 1000 for word in words] == pytest.approx(starts_s)
        assert all(word.start_s < word.stop_s for word in words)
        assert turns == [pytest.approx((begin_ms + len(recording(name)) / 8) / 1000 + 0.32, abs=0.16)]


@pytest.mark.slow
def test_moshis_own_codes_are_the_same_and_silence_and_its_phrases_are_no_words(made: Made, encoder: Mimi) -> None:
    codes = heard(encoder, 800, list(CONVERSATION))
    script = make_codec(Stage.ENCODE, "numpy", made("script") / MIMI, 1)
    again = heard(script, 800, list(CONVERSATION))
    assert codes[:, :8].tolist() == again.tolist()
    assert not codes[:, [*range(2, 8), *range(9, 32)]].any()
    own = np.zeros_like(codes)
    own[:, :2] = np.arange(1, 1 + len(own))[:, None]
    assert written(made("stt"), own[:200]) == ([], [])
