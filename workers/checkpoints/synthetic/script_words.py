"""What `synthetic:script` says when its text is forced: words recorded one by one, and a tone for any other byte.

Moshi reads back the sound of its last step, whatever text token was forced along with it. So the sound carries the
state: each frame of a word has a code of its own, which says how it goes on. What is heard of the caller changes
nothing until Moshi is done.

    token sampled or forced      sound of its step
    ▁Word, Word                  the first frame of the word
    a byte                       a tone of its own, also in the middle of a word
    ▁                            silence; where no word follows, Moshi goes on as the script does
    . and the like, <goes on>    what follows the last sound

    last sound                   followed by        token that Moshi chooses
    a frame of a word            its next frame     <goes on>
    the last frame, a tone       gap 1, silence     <goes on>
    gap 1                        gap 2, silence     <goes on>
    gap 2                        gap 2              ▁, where the next word is put in its place
    that of ▁, of the script     gap 1              padding; what the script says

A word is a piece with its space before it, lower-case and capitalised. Where a phrase of the script has the same piece
the word is a piece without the space, which then comes before it as ▁.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.linear_mimi import DCT, coefficients
from workers.checkpoints.synthetic.tokenizer_file import BYTES, SPACE, Piece, PieceType
from workers.checkpoints.synthetic.weights_file import F32
from workers.messages import CODEBOOKS, FRAME_SAMPLES, CodeArray, Pcm

PUNCTUATION = ",.!?':;"
_TONE_LEVEL = 4.0
"""Of each of a tone's two coefficients: 0.18 of full scale."""
_LOW, _HIGH, _SPACING = 32, 136, 6
"""Coefficients of the lowest of 16 low and of 16 high frequencies, 75 Hz apart: 400 Hz and 1.7 kHz."""
_HALF_BYTE = 16


class Onward(Enum):
    """Which token Moshi chooses after a sound."""

    GOES_ON = "goes on"
    SPACE = "space"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Sound:
    """One frame of forced speech: `code` in codebooks 0 and 1 and the code that follows it."""

    code: int
    follows: int
    onward: Onward

    @property
    def codes(self) -> CodeArray:
        return np.array([self.code] * 2 + [0] * (CODEBOOKS - 2), np.int32)


class SpokenPieces:
    """The vocabulary of forced speech, and its sounds by their codes.

    `pieces` get the tokens from `first_token` on, the sounds the codes from `first_code` on. `recordings` are the words
    with their sound, shape (frames * 1920,); `taken` are pieces of others.
    """

    def __init__(
        self, recordings: Mapping[str, Pcm], first_token: int, first_code: int, taken: Collection[str]
    ) -> None:
        words = {word: _pieces(word, taken) for word in recordings}
        variants = [(piece, PieceType.NORMAL) for piece in chain(*words.values())]
        marks = [(mark, PieceType.NORMAL) for mark in PUNCTUATION]
        self.pieces: list[Piece] = [
            ("<goes on>", PieceType.CONTROL),
            (SPACE, PieceType.NORMAL),
            *variants,
            *marks,
            *BYTES,
        ]
        self.tokens = {piece: token for token, (piece, _) in enumerate(self.pieces, first_token)}
        self.gap = first_code
        """The first code: the sound of a gap."""
        self.pcm = _pcm(recordings)
        self.halves = coefficients(self.pcm.reshape(-1))
        spoken = list(self._spoken(recordings, words))
        self.sounds = {sound.code: sound for sound, _ in spoken}
        self.starts = {self.tokens[piece]: sound.code for sound, pieces in spoken for piece in pieces}
        """The code of each token that has a sound of its own."""

    @property
    def goes_on(self) -> int:
        return self.tokens["<goes on>"]

    @property
    def space(self) -> int:
        return self.tokens[SPACE]

    def frame(self, code: int) -> Pcm:
        """Return the sound of a code, shape (1920,)."""
        frame: Pcm = self.pcm[code - self.gap]
        return frame

    def tokens_of(self, text: str) -> list[list[int]]:
        """Return the tokens of each word of a text of recorded words. Raises KeyError for any other."""
        return [self._tokens_of(word) for word in text.split()]

    def _tokens_of(self, word: str) -> list[int]:
        spoken = re.sub(f"[{PUNCTUATION}]*$", "", word)
        whole = self.tokens.get(SPACE + spoken)
        begin = [self.space, self.tokens[spoken]] if whole is None else [whole]
        return begin + [self.tokens[mark] for mark in word[len(spoken) :]]

    def _spoken(
        self, recordings: Mapping[str, Pcm], words: Mapping[str, list[str]]
    ) -> Iterator[tuple[Sound, list[str]]]:
        """Yield the sounds by their codes, each with the pieces that begin with it."""
        gap, second, space = range(self.gap, self.gap + 3)
        yield Sound(gap, second, Onward.GOES_ON), []
        yield Sound(second, second, Onward.SPACE), []
        yield Sound(space, gap, Onward.WAIT), [SPACE]
        code = space
        for word, pcm in recordings.items():
            frames = len(pcm) // FRAME_SAMPLES
            for frame in range(frames):
                code += 1
                follows = code + 1 if frame + 1 < frames else gap
                yield Sound(code, follows, Onward.GOES_ON), [] if frame else words[word]
        for piece, _ in BYTES:
            code += 1
            yield Sound(code, gap, Onward.GOES_ON), [piece]


def _pieces(word: str, taken: Collection[str]) -> list[str]:
    """Return the pieces of a word, lower-case and capitalised."""
    return [other if SPACE + other in taken else SPACE + other for other in (word.lower(), word.capitalize())]


def _pcm(recordings: Mapping[str, Pcm]) -> F32:
    """Return the sound of every code in its order, shape (codes, 1920)."""
    words = np.concatenate(list(recordings.values())).reshape(-1, FRAME_SAMPLES)
    return np.concatenate([np.zeros((3, FRAME_SAMPLES), np.float32), words, _tones()])


def _tones() -> NDArray[np.float32]:
    """Return the tone of each byte, shape (256, 1920): a frequency for its upper and one for its lower four bits."""
    bits, rows = np.arange(len(BYTES)), np.zeros((len(BYTES), len(DCT)), np.float32)
    rows[bits, _LOW + _SPACING * (bits // _HALF_BYTE)] = _TONE_LEVEL
    rows[bits, _HIGH + _SPACING * (bits % _HALF_BYTE)] = _TONE_LEVEL
    return np.tile(rows @ DCT, 2)
