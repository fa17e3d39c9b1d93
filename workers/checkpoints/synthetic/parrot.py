"""A Moshi that repeats the caller's codes: an exact oracle for the whole way of a code.

The embedding of the caller's codebook c writes the code's pattern into a block of its own; slice c of the depformer
gets that block and answers with the same code. So in each step

    codebook c of Moshi, as sampled  =  codebook c of the caller, as read

for any codes; the padding of the first steps is read as code 0.

Delays. The engine reads codebook 0 of the caller's frame p and codebook 1..7 of their frame p - 1 in step p, and step p
completes Moshi's frame p - 1: codebook 0 sampled in step p - 1 (from the caller's frame p - 1), the rest in step p
(from their frame p - 1). So **step p yields the caller's frame p - 1**, whole. Step 0 yields nothing, and step 1 eight
times code 0, because frame 0 is never read. The official moshi_mlx reads a step later: there **step p yields frame
p - 2**, step 1 eight times code 0, and no frame is lost.

The text is a count from one to ten and round again, one word every 12 steps beginning with the first, whatever the
caller says; the steps between are control tokens, which are no text. So the text token of step p is known too.
"""

import numpy as np

from workers.checkpoints.synthetic.lm_layout import tensors_of
from workers.checkpoints.synthetic.tokenizer_file import SPACE, SPECIAL, Piece, PieceType
from workers.checkpoints.synthetic.weights_file import F32, blank
from workers.checkpoints.synthetic.written_lm import (
    LENGTH,
    PATTERNS,
    SHARPNESS,
    connect,
    norm_factor,
    shapes_of,
    write_matched_filters,
)
from workers.messages import CODEBOOKS

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
STEPS_A_WORD = 12
_ROUND = STEPS_A_WORD * len(WORDS)
_FIRST = len(SPECIAL)
_TEXT = CODEBOOKS * LENGTH
_PLACES = _TEXT + LENGTH


def text_token(step: int) -> int:
    """Return the text token of a step of a call, counted from 0."""
    return _FIRST + step % _ROUND


def text_word(step: int) -> str:
    """Return the word of that step, "" for none."""
    place = step % _ROUND
    return "" if place % STEPS_A_WORD else WORDS[place // STEPS_A_WORD]


def parrot_pieces() -> list[Piece]:
    words = [text_word(step) for step in range(_ROUND)]
    normal, control = PieceType.NORMAL, PieceType.CONTROL
    return [*SPECIAL, *((SPACE + word, normal) if word else (f"<step {n}>", control) for n, word in enumerate(words))]


def _write_count(weights: dict[str, F32], factor: float) -> None:
    """Make each text token follow from the last; one that is no count is followed by the first."""
    start, rows, head = len(parrot_pieces()), weights["text_emb.weight"], weights["text_linear.weight"]
    text, counting = slice(_TEXT, _TEXT + LENGTH), np.arange(_FIRST, start)
    rows[:, text] = PATTERNS[start]
    rows[counting, text] = PATTERNS[counting]
    head[counting, text] = PATTERNS[counting - 1]
    head[_FIRST, text] = PATTERNS[start] + PATTERNS[start - 1]
    head *= SHARPNESS / LENGTH / factor


def parrot_lm() -> dict[str, F32]:
    weights = blank(tensors_of(shapes_of(len(parrot_pieces()))))
    factor = norm_factor(_PLACES)
    write_matched_filters(weights)
    _write_count(weights, factor)
    for codebook in range(CODEBOOKS):
        begin = codebook * LENGTH
        weights[f"audio_embs.{CODEBOOKS + codebook}.weight"][:, begin : begin + LENGTH] = [*PATTERNS, PATTERNS[0]]
        connect(weights, codebook, begin, factor)
    return weights
