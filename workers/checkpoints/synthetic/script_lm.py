"""The script's automaton as the weights of a Moshi.

The embedding of a text token says in places of its own which state it is; those of the caller's first two codebooks say
whether the caller is active. A row of the text head adds up evidence for one next state, 1 being certain:

    a frame of a phrase, a count of PAUSE   the pattern of the one state before it: 1, of any other at most 1/3
    WAIT for a reply                        the mark of those that lead there: WAIT itself and the phrase's last frame
    LISTEN for a reply                      1 for the reply + 1/2 (-1/2) if (not) hearing already + 1/2 for each half

(an active half is +1, a silent one -1), so LISTEN gets 3/2 against 1 when it should win and 1/2 when not.

The first code goes with the token just chosen and comes from the depformer's embedding of it. The second belongs to
the token before, whose embedding holds its pattern. The other six are always 0.
"""

import numpy as np

from workers.checkpoints.synthetic.lm_layout import tensors_of
from workers.checkpoints.synthetic.script import FIRST_TOKEN, Hearing, Phase, ScriptAutomaton, ScriptState
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
_PLACES = 3 * LENGTH + 5


def _write_state(row: F32, script: ScriptAutomaton, token: int, state: ScriptState) -> None:
    row[_IDENTITY : _IDENTITY + LENGTH] = PATTERNS[token]
    row[_SECOND_CODE : _SECOND_CODE + LENGTH] = PATTERNS[state.codes[1]]
    row[_NO_CODE : _NO_CODE + LENGTH] = PATTERNS[0]
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
    return head


def _write_codes(weights: dict[str, F32], script: ScriptAutomaton, factor: float) -> None:
    write_matched_filters(weights)
    first = weights["depformer.slices.0.emb.weight"]
    codes = [0] * FIRST_TOKEN + [int(state.codes[0]) for state in script.states.values()] + [0]
    first[:, :LENGTH] = PATTERNS[codes]
    connect(weights, 1, _SECOND_CODE, factor)
    for index in range(2, CODEBOOKS):
        connect(weights, index, _NO_CODE, factor)


def script_lm(script: ScriptAutomaton) -> dict[str, F32]:
    """Return the weights of a Moshi that follows `script` with the codes of `linear_mimi`."""
    weights = blank(tensors_of(shapes_of(script.start)))
    factor = norm_factor(_PLACES)
    _write_states(weights, script)
    _write_activity(weights)
    weights["text_linear.weight"][:] = _evidence(script) * SHARPNESS / factor
    _write_codes(weights, script, factor)
    return weights
