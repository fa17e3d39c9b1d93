"""What the demo's caller says, with the times of its words, and the token that belongs to each frame of it.

The frames are those of the caller's audio, 80 ms each. A recording may begin in any packet of 20 ms, so that there are
four ways in which the frames can lie on it: `shift` packets of silence precede it in its first frame. The service's
filter to 24 kHz adds 35 samples.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.linear_mimi import DCT, HALF
from workers.checkpoints.synthetic.phrases import read_recording, whole_frames
from workers.checkpoints.synthetic.tokenizer_file import SPACE
from workers.checkpoints.synthetic.weights_file import F32
from workers.messages import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, Pcm

FOLDER = Path(__file__).parent / "caller"
SHIFTS = range(4)
PACKET_S, PACKET_SAMPLES = 0.02, 480
_FILTER_SAMPLES = 35
_CLEAR_LEVEL = 0.3
"""Norm of the second half of a frame that is recognised surely, of 256 coefficients."""
_LONG = 5
"""A word of more letters has two pieces."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording at 24 kHz; `words` are (when it begins in the recording, in seconds, word)."""

    name: str
    pcm: Pcm
    words: tuple[tuple[float, str], ...]

    def frames(self, shift: int) -> F32:
        """Return the second halves of the frames that it lies in, as 256 coefficients each: (frames, 256)."""
        pcm = whole_frames(np.pad(self.pcm, (shift * PACKET_SAMPLES + _FILTER_SAMPLES, 0)))
        halves: F32 = pcm.reshape(-1, 2, HALF)[:, 1] @ DCT.T
        return halves

    def tokens(self, shift: int) -> dict[int, str]:
        """Return the piece that each frame stands for, by its number: "" (the end of padding), then a word's pieces.

        A word begins in the frame of its onset, or in the first one after it that is clear and free; its pieces follow
        in the next clear frames that are as many in a row. Short words in a row are late by up to three frames.
        """
        clear = np.linalg.norm(self.frames(shift), axis=1) >= _CLEAR_LEVEL
        tokens: dict[int, str] = {}
        free = 0
        for onset_s, word in self.words:
            onset = int((onset_s + shift * PACKET_S) * SAMPLE_RATE_HZ) // FRAME_SAMPLES
            begin, pieces = _first_run(clear, max(free, onset), 1), pieces_of(word)
            at = _first_run(clear, begin + 1, len(pieces))
            tokens |= {begin: "", **dict(enumerate(pieces, at))}
            free = at + len(pieces)
        return tokens

    def starts_s(self, shift: int) -> list[float]:
        """Return when the frame begins that each word's token stands in, in seconds after the recording's beginning."""
        begins = [frame for frame, piece in sorted(self.tokens(shift).items()) if not piece]
        return [frame * FRAME_S - shift * PACKET_S for frame in begins]


def _first_run(clear: NDArray[np.bool_], begin: int, length: int) -> int:
    """Return where so many clear frames in a row begin, from `begin` on."""
    return next(at for at in range(begin, len(clear)) if clear[at : at + length].sum() == length)


def pieces_of(word: str) -> list[str]:
    """Return the pieces of a word."""
    return [SPACE + word] if len(word) <= _LONG else [SPACE + word[:3], word[3:]]


@cache
def utterances() -> tuple[Utterance, ...]:
    return tuple(_utterance(**entry) for entry in json.loads((FOLDER / "caller.json").read_text()))


def _utterance(name: str, text: str, onsets_ms: list[int]) -> Utterance:
    words = tuple((onset_ms / 1000, word) for onset_ms, word in zip(onsets_ms, text.split(), strict=True))
    return Utterance(name, read_recording(FOLDER / f"{name}.wav"), words)
