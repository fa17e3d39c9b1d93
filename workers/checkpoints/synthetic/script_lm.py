"""The script's automaton as the weights of a Moshi.

The embedding of a text token says in places of its own which state it is; those of the caller's first two codebooks say
whether the caller is active. A row of the text head adds up evidence for one next state, 1 being certain:

    a frame of a phrase, a count of PAUSE   the pattern of the one state before it: 1, of any other at most 1/3
    WAIT for a reply                        the mark of those that lead there: WAIT itself and the phrase's last frame
    LISTEN for a reply                      1 for the reply + 1/2 (-1/2) if (not) hearing already + 1/2 for each half

(an active half is +1, a silent one -1), so LISTEN gets 3/2 against 1 when it should win and 1/2 when not.

The first code goes with the token just chosen and comes from the depformer's embedding of it. The second belongs to
the token before, whose embedding holds its pattern. The other six are always 0.

While forced text is said, the state is in the embeddings of Moshi's own first code instead, and those of its text
tokens are 0; while it is not, the other way round. Such a state leads to WAIT, <goes on> or ▁ and holds the code that
follows it. The depformer adds the pattern of that code to the token's own, which has three times the weight: so it
decides where a token has no sound of its own.
"""

import numpy as np

from workers.checkpoints.synthetic.lm_layout import tensors_of
from workers.checkpoints.synthetic.script import FIRST_TOKEN, Hearing, Phase, ScriptAutomaton, ScriptState
from workers.checkpoints.synthetic.script_words import Onward, SpokenPieces
from workers.checkpoints.synthetic.weights_file import F32, blank
from workers.checkpoints.synthetic.written_lm import (
    DIM,
    LENGTH,
    PATTERNS,
    SHARPNESS,
    connect,
    norm_factor,
    shapes_of,
    write_matched_filters,
)
from workers.messages import CODEBOOKS

_IDENTITY = 0
_SECOND_CODE = 24
_NO_CODE = 48
"""The pattern of code 0."""
_REPLY = 72
_LEADS_TO = 88
"""Which WAIT comes next: place 0 for none, place r for the one before reply r."""
_HEARING = 104
_HALVES = (105, 106)
_NEXT_CODE = 107
_PLACES = 4 * LENGTH + 5
_GOES_ON, _SPACE = 8, 9
"""What else _LEADS_TO can say."""
_OWN_SOUND = 3.0
"""Weight of a token's own sound against that of what follows the last."""


def _write_state(row: F32, script: ScriptAutomaton, token: int, state: ScriptState) -> None:
    row[_IDENTITY : _IDENTITY + LENGTH] = PATTERNS[token]
    row[_SECOND_CODE : _SECOND_CODE + LENGTH] = PATTERNS[state.codes[1]]
    row[_NO_CODE : _NO_CODE + LENGTH] = PATTERNS[0]
    row[_NEXT_CODE : _NEXT_CODE + LENGTH] = PATTERNS[script.words.gap]
    row[_REPLY + state.reply] = 1
    row[_LEADS_TO + (state.reply if state.phase is Phase.WAIT or script.ends(state) else 0)] = 1
    row[_HEARING] = 1 if state.phase in (Phase.LISTEN, Phase.PAUSE) else -1


def _write_states(weights: dict[str, F32], script: ScriptAutomaton) -> None:
    """Write the states; the tokens before the first, which are never sampled, count as waiting."""
    rows, waiting = weights["text_emb.weight"], script.states[FIRST_TOKEN]
    for token, state in script.states.items():
        _write_state(rows[token], script, token, state)
    for token in range(FIRST_TOKEN):
        _write_state(rows[token], script, FIRST_TOKEN, waiting)
    greeting = script.states[script.table[script.start][Hearing.QUIET]]
    _write_state(rows[script.start], script, script.start, greeting)
    rows[script.start, _SECOND_CODE : _SECOND_CODE + LENGTH] = PATTERNS[0]


def _write_sounds(rows: F32, words: SpokenPieces) -> None:
    """Write the states of forced text into the embedding of the first code."""
    leads_to = {Onward.WAIT: 1, Onward.GOES_ON: _GOES_ON, Onward.SPACE: _SPACE}
    for code, sound in words.sounds.items():
        row, numbers = rows[code], (words.goes_on, sound.codes[1], 0, sound.follows)
        for begin, number in zip((_IDENTITY, _SECOND_CODE, _NO_CODE, _NEXT_CODE), numbers, strict=True):
            row[begin : begin + LENGTH] = PATTERNS[number]
        row[[_REPLY, _LEADS_TO + leads_to[sound.onward]]] = 1
        row[_HEARING] = -1


def _write_activity(weights: dict[str, F32]) -> None:
    """Write whether a half frame is active into the embeddings of the caller's codes; the last row is padding."""
    for index, place in enumerate(_HALVES):
        rows = weights[f"audio_embs.{CODEBOOKS + index}.weight"]
        rows[:, place] = 1
        rows[0, place] = rows[-1, place] = -1


def _evidence(script: ScriptAutomaton) -> F32:
    """Return the text head in terms of the sum of the embeddings, shape (tokens, 256)."""
    head = np.zeros((script.start, DIM), np.float32)
    for token, row in script.table.items():
        onward = script.states[row[Hearing.QUIET]]
        if onward.phase is not Phase.WAIT:
            head[onward.token, _IDENTITY : _IDENTITY + LENGTH] += PATTERNS[token] / LENGTH
    for state in script.states.values():
        if state.phase is Phase.WAIT:
            head[state.token, _LEADS_TO + state.reply] = 1
        if state.phase is Phase.LISTEN:
            head[state.token, [_REPLY + state.reply, _HEARING, *_HALVES]] = 1, 0.5, 0.5, 0.5
    head[script.words.goes_on, _LEADS_TO + _GOES_ON] = head[script.words.space, _LEADS_TO + _SPACE] = 1
    return head


def _write_codes(weights: dict[str, F32], script: ScriptAutomaton, factor: float) -> None:
    write_matched_filters(weights)
    first = weights["depformer.slices.0.emb.weight"]
    codes = dict.fromkeys([*range(FIRST_TOKEN), script.start], 0) | script.words.starts
    codes |= {token: int(state.codes[0]) for token, state in script.states.items()}
    first[list(codes), :LENGTH] = PATTERNS[list(codes.values())] * _OWN_SOUND
    connect(weights, 0, _NEXT_CODE, factor)
    connect(weights, 1, _SECOND_CODE, factor)
    for index in range(2, CODEBOOKS):
        connect(weights, index, _NO_CODE, factor)


def script_lm(script: ScriptAutomaton) -> dict[str, F32]:
    """Return the weights of a Moshi that follows `script` with the codes of `linear_mimi`."""
    weights = blank(tensors_of(shapes_of(script.start)))
    factor = norm_factor(_PLACES)
    _write_states(weights, script)
    _write_sounds(weights["audio_embs.0.weight"], script.words)
    _write_activity(weights)
    weights["text_linear.weight"][:] = _evidence(script) * SHARPNESS / factor
    _write_codes(weights, script, factor)
    return weights
