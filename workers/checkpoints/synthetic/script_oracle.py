"""Predicts a call to `synthetic:script`, with forced text or without: every token, code and sample."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from workers.checkpoints.synthetic.script import FIRST_TOKEN, Activity, Hearing, ScriptState, hearing_at, script
from workers.checkpoints.synthetic.script_words import Onward
from workers.checkpoints.synthetic.tokenizer_file import SPACE, PieceType
from workers.messages import CodeArray, Pcm

Choose = Callable[[int], int]
"""Returns what takes the place of the text token that Moshi chooses."""


@dataclass(frozen=True, slots=True)
class SpokenStep:
    """What one step brings: `codes` (8,) and `pcm` (1920,) are the sound of its token.

    `state` is that of the script, None while forced text is said.
    """

    token: int
    codes: CodeArray
    pcm: Pcm
    state: ScriptState | None


class SpokenOracle:
    """One call, step by step."""

    def __init__(self) -> None:
        self.script = script()
        self._token, self._code = self.script.start, 0

    def step(self, hearing: Hearing, choose: Choose = int) -> SpokenStep:
        words, self._token = self.script.words, choose(self._chosen(hearing))
        if state := self.script.states.get(max(self._token, FIRST_TOKEN)):
            self._code = 0
            return SpokenStep(self._token, state.codes, self.script.frame(state), state)
        last = words.sounds.get(self._code)
        self._code = words.starts.get(self._token, last.follows if last else words.gap)
        return SpokenStep(self._token, words.sounds[self._code].codes, words.frame(self._code), None)

    def _chosen(self, hearing: Hearing) -> int:
        """Return the token that Moshi chooses by itself."""
        words = self.script.words
        if sound := words.sounds.get(self._code):
            return {Onward.GOES_ON: words.goes_on, Onward.SPACE: words.space, Onward.WAIT: FIRST_TOKEN}[sound.onward]
        return self.script.table[max(self._token, FIRST_TOKEN)][hearing]


class WordByWord:
    """Puts words, each some tokens, one after the other where Moshi begins a word."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        self._pieces = script().pieces()
        self._words, self._rest = deque(words), deque[int]()

    def __bool__(self) -> bool:
        return bool(self._words or self._rest)

    def __call__(self, token: int) -> int:
        if not self._rest and self._words and self._pieces[token][0].startswith(SPACE):
            self._rest.extend(self._words.popleft())
        return self._rest.popleft() if self._rest else token


def greet(caller: Activity, greeting: str) -> list[SpokenStep]:
    """Return the steps of a call that begins with these recorded words; until the last one the caller is not heard.

    "" is a call without forced text.
    """
    oracle, words, heard = SpokenOracle(), WordByWord(script().words.tokens_of(greeting)), caller.copy()
    steps = []
    for step in range(len(caller)):
        heard[step] &= not words
        steps.append(oracle.step(hearing_at(heard, step), words))
    return steps


def sound(steps: Sequence[SpokenStep]) -> Pcm:
    """Return the sound of these steps at 24 kHz, shape (steps * 1920,), to some 35 dB."""
    return np.concatenate([np.zeros(0, np.float32), *(step.pcm for step in steps)])


def text(tokens: Iterable[int]) -> str:
    """Return what these tokens are in a transcript."""
    pieces = script().pieces()
    return b"".join(_utf8(*pieces[token]) for token in tokens).decode(errors="replace")


def _utf8(piece: str, kind: PieceType) -> bytes:
    if kind is PieceType.BYTE:
        return bytes.fromhex(piece[3:5])
    return b"" if kind in (PieceType.CONTROL, PieceType.UNKNOWN) else piece.replace(SPACE, " ").encode()
