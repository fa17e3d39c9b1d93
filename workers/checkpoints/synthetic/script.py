"""The conversation of the script stand-in: an automaton, and the oracle that foretells what it says.

Theory. A state is a text token. In each step Moshi's last text token and what it hears of the caller decide the next
one. It hears two halves of 40 ms, because codebook 0 is the first half of a frame and is read in that frame's step,
and codebook 1 the second half and comes one step later: the second half of the frame before and the first half of this
one. Both active is HEARD, both silent is QUIET, anything else MIXED. So one active frame alone is never HEARD, two in a
row always are.

    SPEAK   say the next frame of a phrase, then WAIT;   HEARD: LISTEN, at once, wherever the phrase is
    WAIT    stay;                                        HEARD: LISTEN
    LISTEN  stay;                                        QUIET: PAUSE
    PAUSE   count QUIET steps, then SPEAK the reply;     otherwise: LISTEN

A call begins with the greeting (phrase 0); phrases 1, 2, 3 are the replies, in turn and round again. Which reply comes
next is part of the state. A phrase cut short is not taken up again: the next reply is the next phrase.

The caller's pauses are bridged while they are shorter than PAUSE_STEPS QUIET steps: he must be silent for PAUSE_STEPS
+ 1 frames to be answered.

The first half of a frame (codebook 0) is sampled in the step of its text token, the second half in the step after it.
So step p of the engine yields the sound of the token of step p - 1, and no sound at p = 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.synthetic.linear_mimi import frame_codes, frames_of
from workers.checkpoints.synthetic.phrases import Phrase, phrases
from workers.checkpoints.synthetic.tokenizer_file import SPACE, SPECIAL, Kind, Piece
from workers.messages import CODEBOOKS, FRAME_SAMPLES, CodeArray, Pcm

PAUSE_STEPS = 5
"""How many QUIET steps end the caller's turn."""
FIRST_TOKEN = 3
"""The first state, waiting after the greeting, is Kyutai's padding token."""

Activity = NDArray[np.bool_]
"""Whether the caller is active in the first and second half of each frame, shape (frames, 2)."""


class Hearing(Enum):
    """What a step hears of the caller."""

    QUIET = 0
    MIXED = 1
    HEARD = 2


class Phase(Enum):
    """What Moshi is doing."""

    SPEAK = "speak"
    WAIT = "wait"
    LISTEN = "listen"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class State:
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
    def piece(self) -> Piece:
        """Its piece in the tokenizer; only a word's is text."""
        if self.word:
            return SPACE + self.word, Kind.NORMAL
        return SPECIAL[FIRST_TOKEN] if self.token == FIRST_TOKEN else (f"<state {self.token}>", Kind.CONTROL)


_Key = tuple[Phase, int, int]
"""A state by what it means: phase, phrase spoken or next reply, place."""


class Script:
    """The states and the table of the conversation; `start` is the token before the first step."""

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        """Take the greeting and at least one reply."""
        self.phrases = tuple(phrases)
        self.halves = frames_of([phrase.pcm for phrase in self.phrases])
        self.states = {state.token: state for state in self._states()}
        self.start = FIRST_TOKEN + len(self.states)
        self._tokens = {self._key(state): token for token, state in self.states.items()}
        self.table = self._table()

    @property
    def replies(self) -> range:
        """The phrases that answer."""
        return range(1, len(self.phrases))

    def pieces(self) -> list[Piece]:
        """Return the vocabulary, one piece for each text token."""
        return [*SPECIAL[:FIRST_TOKEN], *(state.piece for state in self.states.values())]

    def after(self, phrase: int) -> int:
        """Return the reply that follows a phrase."""
        return phrase % len(self.replies) + 1

    def ends(self, state: State) -> bool:
        """Say whether this is the last frame of a phrase."""
        return state.phase is Phase.SPEAK and state.place + 1 == self.phrases[state.phrase].frames

    def _silent(self) -> Iterator[tuple[Phase, int, int]]:
        yield from ((Phase.WAIT, reply, 0) for reply in self.replies)
        yield from ((Phase.LISTEN, reply, 0) for reply in self.replies)
        yield from ((Phase.PAUSE, reply, count) for reply in self.replies for count in range(1, PAUSE_STEPS))

    def _states(self) -> Iterator[State]:
        token = FIRST_TOKEN
        for phase, reply, place in self._silent():
            yield State(token, phase, reply, np.zeros(CODEBOOKS, np.int32), place=place)
            token += 1
        codes = iter(frame_codes(self.halves))
        for number, phrase in enumerate(self.phrases):
            words = dict(phrase.words)
            for frame in range(phrase.frames):
                yield State(token, Phase.SPEAK, self.after(number), next(codes), number, frame, words.get(frame, ""))
                token += 1

    def _key(self, state: State) -> _Key:
        return state.phase, state.phrase if state.phase is Phase.SPEAK else state.reply, state.place

    def _onward(self, state: State) -> int:
        """Return the token that follows when the caller does not matter."""
        if state.phase is Phase.SPEAK and not self.ends(state):
            return self._tokens[Phase.SPEAK, state.phrase, state.place + 1]
        return self._tokens[Phase.WAIT, state.reply, 0]

    def _counted(self, state: State) -> int:
        """Return the token that follows one more QUIET step."""
        if state.place + 1 == PAUSE_STEPS:
            return self._tokens[Phase.SPEAK, state.reply, 0]
        return self._tokens[Phase.PAUSE, state.reply, state.place + 1]

    def _row(self, state: State) -> dict[Hearing, int]:
        listen = self._tokens[Phase.LISTEN, state.reply, 0]
        if state.phase in (Phase.LISTEN, Phase.PAUSE):
            return {Hearing.QUIET: self._counted(state), Hearing.MIXED: listen, Hearing.HEARD: listen}
        onward = self._onward(state)
        return {Hearing.QUIET: onward, Hearing.MIXED: onward, Hearing.HEARD: listen}

    def _table(self) -> dict[int, dict[Hearing, int]]:
        greeting = self._tokens[Phase.SPEAK, 0, 0]
        rows = {token: self._row(state) for token, state in self.states.items()}
        rows[self.start] = {Hearing.QUIET: greeting, Hearing.MIXED: greeting}
        return rows


@cache
def script() -> Script:
    """Return the conversation of `synthetic:script`."""
    return Script(phrases())


def always(active: Sequence[bool] | Activity) -> Activity:
    """Return the activity of a caller who is active or silent for whole frames, `active` of shape (frames,)."""
    return np.repeat(np.asarray(active, bool)[:, None], 2, axis=1)


def hearings(caller: Activity, late_frames: int = 0) -> Iterator[Hearing]:
    """Yield what each step hears of a caller, one step a frame.

    An engine that reads each frame in its own step never reads frame 0; one that reads it a step late, as the official
    moshi_mlx does (`late_frames` 1), reads that too.
    """
    frames = len(caller)
    caller = np.concatenate([np.zeros((late_frames, 2), bool), caller])
    for step in range(frames):
        first = step >= 1 and caller[step, 0]
        second = step >= 2 and caller[step - 1, 1]
        yield Hearing(int(first) + int(second))


class ScriptOracle:
    """Foretells the states of a call, step by step."""

    def __init__(self, conversation: Script | None = None) -> None:
        """Stand before the first step."""
        self.script = conversation or script()
        self._token = self.script.start

    def step(self, hearing: Hearing) -> State:
        """Return the state after a step in which this was heard."""
        self._token = self.script.table[self._token][hearing]
        return self.script.states[self._token]

    def run(self, caller: Activity, late_frames: int = 0) -> list[State]:
        """Return the state after each step with this caller; see `hearings`."""
        return [self.step(hearing) for hearing in hearings(caller, late_frames)]

    def sound(self, states: Sequence[State]) -> Pcm:
        """Return what the caller hears of these states at 24 kHz, shape (states * 1920,), to some 35 dB."""
        silence = np.zeros(FRAME_SAMPLES, np.float32)
        frames = [self._frame(state) if state.phase is Phase.SPEAK else silence for state in states]
        return np.concatenate(frames) if frames else silence[:0]

    def _frame(self, state: State) -> Pcm:
        begin = state.place * FRAME_SAMPLES
        return self.script.phrases[state.phrase].pcm[begin : begin + FRAME_SAMPLES]


def transcript(states: Sequence[State]) -> str:
    """Return the words that begin in these states."""
    return " ".join(state.word for state in states if state.word)
