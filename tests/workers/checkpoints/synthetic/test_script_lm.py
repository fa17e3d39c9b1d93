"""The script's weights, run by the official code, against its table and its oracle."""

import mlx.core as mx
import numpy as np
import pytest
from moshi_mlx.models import Lm
from moshi_mlx.utils import Sampler
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from tests.workers.checkpoints.synthetic.conftest import Made
from tests.workers.checkpoints.synthetic.official import Codes, as_heard_late, converse, load, parameters_of, turns
from workers.checkpoints.files import TOKENIZER
from workers.checkpoints.synthetic.linear_mimi import BAND_BEGIN
from workers.checkpoints.synthetic.script import PAUSE_STEPS, Activity, Hearing, script
from workers.checkpoints.synthetic.script_oracle import greet
from workers.checkpoints.synthetic.written_lm import LENGTH, PATTERNS

GREETING, REPLY1, REPLY2, _ = script().phrases
PADDING = 2_048
SURE_NATS = 16


def caller_codes(caller: Activity) -> Codes:
    """Return codes of somebody who is active in these halves, shape (frames, 8)."""
    codes = np.zeros((len(caller), 8), np.int32)
    codes[:, :2] = np.where(caller, BAND_BEGIN + np.arange(len(caller))[:, None] % 256, 0)
    return codes


def heads(lm: Lm, tokens: list[int], first: list[int], second: list[int]) -> tuple[mx.array, NDArray[np.float32]]:
    """Return what comes out of the transformer for one step of each row, and the logits of the text."""
    x = lm.text_emb(mx.array(tokens)[:, None])
    x = x + lm.audio_embs[8](mx.array(first)[:, None]) + lm.audio_embs[9](mx.array(second)[:, None])
    out = lm.out_norm(lm.transformer(x, cache=lm.transformer.make_cache()))
    return out, np.array(lm.text_linear(out)[:, 0].astype(mx.float32))


@pytest.mark.parametrize("bits", [None, pytest.param(8, marks=pytest.mark.slow), 4])
def test_every_state_is_followed_as_in_the_table_surely_and_has_its_codes(made: Made, bits: int | None) -> None:
    lm = load(made("script"), bits=bits)
    heard = {Hearing.QUIET: (0, PADDING), Hearing.MIXED: (7, 0), Hearing.HEARD: (1_100, 2_047)}
    cases = [(token, *heard[hearing], to) for token, row in script().table.items() for hearing, to in row.items()]
    tokens, first, second, wanted = map(list, zip(*cases, strict=True))
    _, logits = heads(lm, tokens, first, second)
    assert logits.argmax(axis=1).tolist() == wanted
    best = np.sort(logits, axis=1)
    assert (best[:, -1] - best[:, -2]).min() > SURE_NATS
    states = list(script().states.values())
    before = [*states[1:], states[0]]
    out, _ = heads(lm, [state.token for state in before], [0] * len(states), [0] * len(states))
    now = mx.array([state.token for state in states])[:, None]
    codes = np.array(lm.depformer.sample(out, Sampler(temp=0.0), now, lm.depformer_cache))[:, :, 0]
    assert codes[:, 0].tolist() == [int(state.codes[0]) for state in states]
    assert codes[:, 1:].tolist() == [state.codes[1:].tolist() for state in before]


def test_the_official_engine_greets_listens_replies_and_yields(made: Made) -> None:
    """At Kyutai's temperature: sampling changes nothing."""
    pause = PAUSE_STEPS
    caller = turns(20, 4, pause, 4, 20, 6, 30, 3, 20)  # a pause bridged, two replies spoken over, the third
    tokens, frames = converse(load(made("script")), caller_codes(caller), temperature=0.8)
    steps = greet(as_heard_late(caller), "")
    assert tokens == [step.token for step in steps]
    assert frames.tolist() == [step.codes.tolist() for step in steps[:-1]]


def test_word_by_word(made: Made) -> None:
    """The same without the oracle: one step for each frame, the reply after six silent frames and one late one."""
    caller = turns(90, 10, 80)
    tokens, frames = converse(load(made("script")), caller_codes(caller))
    pieces = SentencePieceProcessor(model_file=str(made("script") / TOKENIZER))
    words = {step: pieces.decode([token]) for step, token in enumerate(tokens) if pieces.decode([token])}
    reply = 90 + 10 + PAUSE_STEPS + 1
    assert words == dict(GREETING.words) | {reply + frame: word for frame, word in REPLY1.words}
    numbers = np.zeros(len(frames), np.int32)
    numbers[: GREETING.frames] = range(1, 1 + GREETING.frames)
    numbers[reply : reply + REPLY1.frames] = range(1 + GREETING.frames, 1 + GREETING.frames + REPLY1.frames)
    silent = frames[:, :2] == 0
    assert np.array_equal(frames[:, :2], np.where(silent, 0, numbers[:, None]))
    assert silent[numbers > 0].mean() < 0.3
    assert pieces.decode(tokens) == f"{GREETING.text} {REPLY1.text}"


def test_the_kv_cache_does_not_matter(made: Made) -> None:
    parameters = parameters_of(load(made("script")))
    silent = [name for name in parameters if "out_proj" in name or "gating.linear_out" in name]
    assert len(silent) == 2 * (1 + 8)
    assert not any(mx.any(parameters[name]).item() for name in silent)


def test_a_pattern_matches_itself_fully_and_any_other_by_a_third_at_most() -> None:
    products = PATTERNS @ PATTERNS.T
    np.fill_diagonal(products, 0)
    assert PATTERNS.shape == (2_048, LENGTH)
    assert set(np.unique(PATTERNS)) == {-1, 1}
    assert (PATTERNS[0] == 1).all()
    assert set(np.unique(products)) == {-8, 0, 8}
