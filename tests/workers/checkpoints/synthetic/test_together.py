"""From the caller's line to Moshi's voice: rustymimi, the official engine, rustymimi; foretold by the oracle."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rustymimi

from tests.workers.checkpoints.synthetic.official import activity, as_heard_late, converse, load
from workers.checkpoints.files import MIMI
from workers.checkpoints.synthetic.script import Phase, ScriptOracle, script
from workers.messages import FRAME_SAMPLES, Pcm

FRAMES = 45
SPEAKS_AT = 12


def mu_law(pcm: Pcm) -> Pcm:
    """Send through 8 bits as G.711 does, at 24 kHz for simplicity."""
    steps = np.round(np.sign(pcm) * np.log1p(255 * np.abs(pcm)) / np.log1p(255) * 127) / 127
    line: Pcm = (np.sign(steps) * (256 ** np.abs(steps) - 1) / 255).astype(np.float32)
    return line


def line() -> Pcm:
    """A caller on a line with noise at -60 dB, who says a few words at frame 12, then nothing."""
    pcm = np.random.default_rng(0).normal(0, 1e-3, FRAMES * FRAME_SAMPLES).astype(np.float32)
    words = script().phrases[3].pcm[: 9 * FRAME_SAMPLES]
    begin = SPEAKS_AT * FRAME_SAMPLES + 500
    pcm[begin : begin + len(words)] += 0.4 * words
    return mu_law(pcm)


def test_the_greeting_stops_when_spoken_over_and_the_reply_is_heard(made: Callable[[str], Path]) -> None:
    encoder, decoder = (rustymimi.Tokenizer(str(made("script") / MIMI), num_codebooks=8) for _ in range(2))
    caller = encoder.encode_step(line()[None, None])[0].T.astype(np.int32)
    tokens, frames = converse(load(made("script")), caller)
    oracle = ScriptOracle()
    states = oracle.run(as_heard_late(activity(caller)))
    assert tokens == [state.token for state in states]
    assert [states[step].phase for step in (SPEAKS_AT, SPEAKS_AT + 4)] == [Phase.SPEAK, Phase.LISTEN]
    assert (states[-1].phase, states[-1].phrase) == (Phase.SPEAK, 1)
    wanted = oracle.sound(states[:-1])
    got = decoder.decode_step(np.ascontiguousarray(frames.T[None].astype(np.uint32)))[0, 0]
    assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 30
