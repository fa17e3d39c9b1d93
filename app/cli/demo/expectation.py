"""What `synthetic:script` must have said in a call, computed from what the caller said alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from app.audio import mulaw
from app.audio.jitter_buffer import JitterBuffer
from app.calls.masking import mask_digits
from app.calls.transcript import Side, Word
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ
from workers.checkpoints.synthetic.linear_mimi import activity_of
from workers.checkpoints.synthetic.script import Activity, Phase, script
from workers.checkpoints.synthetic.script_oracle import SpokenStep, greet, sound, text
from workers.messages import FRAME_S, Pcm

PACKET = mulaw.PACKET_SAMPLES
GREETING = "greeting"
"""The name of that utterance, whoever greets."""


@dataclass(frozen=True, slots=True)
class ExpectedUtterance:
    """One phrase, or the part of it that was said, or the words of a persona's greeting; `pcm` is at 24 kHz.

    `decided_s` is the end, on the caller's clock, of the frame that made Moshi begin, `yielded_s` of the one that made
    it stop; None where no frame of the caller's did.
    """

    name: str
    pcm: Pcm
    decided_s: float | None
    yielded_s: float | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must be heard in the call, and read in its transcript, where digits in a row are masked."""

    utterances: tuple[ExpectedUtterance, ...]
    transcript: str


def expect(said: Samples, record: dict[str, Any], greeting: str = "") -> Expectation:
    """Return what is said to a caller who said this, int16 at 8 kHz; `record` has the time of the first frame.

    `greeting` are the words of a persona's greeting, "" for the script's own.
    """
    greeting_frames, takeover_s = int(record["greeting_frames"]), float(record["takeover_s"])
    steps = greet(_activity(said, greeting_frames, takeover_s), greeting)

    def frame_end_s(step: int) -> float | None:
        frame = step - greeting_frames
        return takeover_s + (frame + 1) * FRAME_S if frame >= 0 else None

    return Expectation(tuple(_utterances(steps, frame_end_s)), _masked(text(step.token for step in steps)))


def _masked(said: str) -> str:
    """Return the words as a transcript has them: the script counts aloud."""
    words = [Word(Side.MOSHI, word, 0.0, 0.0) for word in said.split()]
    return " ".join(word.text for word in mask_digits(words))


def _activity(said: Samples, greeting_frames: int, takeover_s: float) -> Activity:
    inbound, payload = JitterBuffer(takeover_s), mulaw.encode(said)
    inbound.start(0.0)
    frames = [
        frame
        for start in range(0, len(payload), PACKET)
        for frame in inbound.push(start * 1000 // RATE_HZ, payload[start : start + PACKET], (start + PACKET) / RATE_HZ)
    ]
    heard = activity_of(np.concatenate(frames), script().halves)
    return np.concatenate([np.zeros((greeting_frames, 2), bool), heard])


def _utterances(steps: list[SpokenStep], frame_end_s: Any) -> Iterator[ExpectedUtterance]:
    step = 0
    for name, run in groupby(steps, key=_utterance):
        said = list(run)
        first, step = step, step + len(said)
        if name:
            state = said[-1].state
            cut = step < len(steps) and state is not None and not script().ends(state)
            yield ExpectedUtterance(name, sound(said), frame_end_s(first), frame_end_s(step) if cut else None)


def _utterance(step: SpokenStep) -> str:
    """Return the name of the utterance that a step belongs to, "" for none."""
    if step.state is None:
        return GREETING
    return script().phrases[step.state.phrase].name if step.state.phase is Phase.SPEAK else ""
