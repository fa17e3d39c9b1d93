"""The conversation of `synthetic:script`, an automaton; `script_oracle` predicts what it says.

A state is a text token. In each step Moshi's last text token and what is heard of the caller decide the next one. Two
halves of 40 ms are heard, because codebook 0 is the first half of a frame and is read in that frame's step, and
codebook 1 the second half and comes one step later: the second half of the frame before and the first half of this one.
Both active is HEARD, both silent is QUIET, anything else MIXED. So one active frame alone is never HEARD, two in a row
always are.

    SPEAK   say the next frame of a phrase, then WAIT;   HEARD: LISTEN, at once, wherever the phrase is
    WAIT    stay;                                        HEARD: LISTEN
    LISTEN  stay;                                        QUIET: PAUSE
    PAUSE   count QUIET steps, then SPEAK the reply;     otherwise: LISTEN

A call begins with the greeting (phrase 0); phrases 1, 2, 3 are the replies, in turn and round again. Which reply comes
next is part of the state. A phrase cut short is not resumed: the next reply is the next phrase.

The caller's pauses are bridged while they are shorter than PAUSE_STEPS QUIET steps: they must be silent for PAUSE_STEPS
+ 1 frames to be answered.

The first half of a frame (codebook 0) is sampled in the step of its text token, the second half in the step after it.
So step p of the engine yields the sound of the token of step p - 1, and no sound at p = 0.

Forced text is said in words of its own: see `script_words`. Then the script goes on with WAIT for reply 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import count, product

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.linear_mimi import coefficients, frame_codes
from workers.checkpoints.synthetic.phrases import Phrase, phrases, recorded_words
from workers.checkpoints.synthetic.script_words import SpokenPieces
from workers.checkpoints.synthetic.tokenizer_file import PADDING, SPACE, SPECIAL, Piece, PieceType
from workers.messages import CODEBOOKS, FRAME_SAMPLES, CodeArray, Pcm

PAUSE_STEPS = 5
"""How many QUIET steps end the caller's turn."""
FIRST_TOKEN = PADDING
"""The first state, waiting after the greeting."""

Activity = NDArray[np.bool_]
"""Whether the caller is active in the first and second half of each frame, shape (frames, 2)."""


class Hearing(Enum):
    QUIET = 0
    MIXED = 1
    HEARD = 2


class Phase(Enum):
    SPEAK = "speak"
    WAIT = "wait"
    LISTEN = "listen"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class ScriptState:
    """One state: `reply` is the phrase that comes next.

    `place` is the frame of the phrase being spoken, or how many QUIET steps have been counted. `word` begins in this
    state, "" for none. `codes`, shape (8,), are the sound that goes with it.
    """

    token: int
    phase: Phase
    reply: int
    codes: CodeArray
    phrase: int = -1
    place: int = 0
    word: str = ""

    @property
    def key(self) -> tuple[Phase, int, int]:
        """The state by its meaning: phase, phrase spoken or next reply, place."""
        return self.phase, self.phrase if self.phase is Phase.SPEAK else self.reply, self.place

    @property
    def piece(self) -> Piece:
        """Its piece in the tokenizer; only a word's is text, of which no encoded text is made."""
        if self.word:
            return SPACE + self.word, PieceType.UNUSED
        return SPECIAL[FIRST_TOKEN] if self.token == FIRST_TOKEN else (f"<state {self.token}>", PieceType.CONTROL)


class ScriptAutomaton:
    """The states and the table of the conversation; `start` is the token before the first step.

    `words` are the pieces that can be forced; a sound is said with the tokens and codes behind those of the phrases.
    """

    def __init__(self, phrases: Sequence[Phrase], recordings: Mapping[str, Pcm]) -> None:
        self.phrases = tuple(phrases)
        spoken = coefficients(np.concatenate([phrase.pcm for phrase in self.phrases]))
        self.states = {state.token: state for state in self._states(frame_codes(spoken))}
        taken = {state.piece[0] for state in self.states.values()}
        self.words = SpokenPieces(recordings, FIRST_TOKEN + len(self.states), 1 + len(spoken), taken)
        self.halves = np.concatenate([spoken, self.words.halves])
        self.start = FIRST_TOKEN + len(self.states) + len(self.words.pieces)
        self._tokens = {state.key: token for token, state in self.states.items()}
        self.table = {token: self._row(state) for token, state in self.states.items()}
        greeting = self._tokens[Phase.SPEAK, 0, 0]
        self.table[self.start] = {Hearing.QUIET: greeting, Hearing.MIXED: greeting}

    def pieces(self) -> list[Piece]:
        """Return the vocabulary, one piece for each text token."""
        return [*SPECIAL[:FIRST_TOKEN], *(state.piece for state in self.states.values()), *self.words.pieces]

    def frame(self, state: ScriptState) -> Pcm:
        """Return the sound of a state, shape (1920,)."""
        frame = np.zeros(FRAME_SAMPLES, np.float32)
        if state.phase is Phase.SPEAK:
            frame[:] = self.phrases[state.phrase].pcm.reshape(-1, FRAME_SAMPLES)[state.place]
        return frame

    def ends(self, state: ScriptState) -> bool:
        return state.phase is Phase.SPEAK and state.place + 1 == self.phrases[state.phrase].frames

    def _states(self, frames: NDArray[np.int32]) -> Iterator[ScriptState]:
        """Yield every state; `frames` are the codes of the phrases, shape (frames, 8)."""
        replies, tokens, silence = range(1, len(self.phrases)), count(FIRST_TOKEN), np.zeros(CODEBOOKS, np.int32)
        for phase, reply in product((Phase.WAIT, Phase.LISTEN), replies):
            yield ScriptState(next(tokens), phase, reply, silence)
        for reply, quiet in product(replies, range(1, PAUSE_STEPS)):
            yield ScriptState(next(tokens), Phase.PAUSE, reply, silence, place=quiet)
        codes = iter(frames)
        for number, phrase in enumerate(self.phrases):
            words, reply = dict(phrase.words), number % len(replies) + 1
            for frame in range(phrase.frames):
                yield ScriptState(next(tokens), Phase.SPEAK, reply, next(codes), number, frame, words.get(frame, ""))

    def _row(self, state: ScriptState) -> dict[Hearing, int]:
        """Return the token that follows a state, by what is heard."""
        listen = self._tokens[Phase.LISTEN, state.reply, 0]
        if state.phase in (Phase.LISTEN, Phase.PAUSE):
            counted = state.place + 1
            quiet = (Phase.SPEAK, state.reply, 0) if counted == PAUSE_STEPS else (Phase.PAUSE, state.reply, counted)
            return {Hearing.QUIET: self._tokens[quiet], Hearing.MIXED: listen, Hearing.HEARD: listen}
        speaks_on = state.phase is Phase.SPEAK and not self.ends(state)
        onward = self._tokens[
            (Phase.SPEAK, state.phrase, state.place + 1) if speaks_on else (Phase.WAIT, state.reply, 0)
        ]
        return {Hearing.QUIET: onward, Hearing.MIXED: onward, Hearing.HEARD: listen}


@cache
def script() -> ScriptAutomaton:
    return ScriptAutomaton(phrases(), recorded_words())


def hearing_at(caller: Activity, step: int) -> Hearing:
    """Return what a step hears of a caller, one step a frame; frame 0 is never read."""
    first = step >= 1 and caller[step, 0]
    second = step >= 2 and caller[step - 1, 1]
    return Hearing(int(first) + int(second))
