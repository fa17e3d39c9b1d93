"""Speech-to-text whose words are known in advance: `synthetic:stt` writes down what the demo's caller says.

The script's Mimi recognises the frames of the caller's recordings by their second halves: codebook `SPOKEN`, which
Moshi does not read, has an entry for each frame of each recording, for each way in which frames can lie on it; whatever
else is said gives code 0. So a code stands for a token: 0 where a word begins, its pieces after it, else padding.

The text is as far behind as in Kyutai's models, by attention: queries and keys are constants whose rotary angles meet
where the key is `BEHIND` steps older than the query, so that each step sees one earlier frame alone. What its code
stands for goes through value and output projection to the head. MLP and embeddings of text are zero, and every sum has
the same number of places at +-1, as in `written_lm`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from workers.checkpoints.synthetic.caller_speech import SHIFTS, pieces_of, utterances
from workers.checkpoints.synthetic.linear_mimi import ACTIVE_LEVEL, SPOKEN
from workers.checkpoints.synthetic.lm_layout import Shape, Shapes, config_of, main_tensors
from workers.checkpoints.synthetic.tokenizer_file import END_OF_PADDING, PADDING, SPECIAL, Piece, PieceType
from workers.checkpoints.synthetic.weights_file import F32, blank
from workers.checkpoints.synthetic.written_lm import DIM, LENGTH, PATTERNS, SHARPNESS, norm_factor
from workers.messages import SPEECH_CODEBOOKS

DELAY_S, DELAY_STEPS = 0.5, 6
BEHIND = DELAY_STEPS - 2
"""With our reading step p is at the time of frame p - 4 (PERSONAPLEX.md §6)."""
EXTRA_HEADS, HEAD_CLASSES, TURN_HEAD = 4, 6, 2
CONTEXT, MAX_PERIOD = 750, 100_000.0
STT_SIZES = {
    "tiny": Shapes(256, 4, 2, 64, 2, 2, 192, text_card=1_000, context=CONTEXT),
    "mid": Shapes(1024, 16, 8, 64, 2, 2, 192, text_card=4_000, context=CONTEXT),
    "full": Shapes(2048, 16, 16, 64, 2, 2, 192, text_card=8_000, context=CONTEXT),
}
"""Of random weights; `full` is kyutai/stt-1b-en_fr."""
_HEADS = 4
_HEAD = DIM // _HEADS
_TOKEN, _LAST, _ONE = 0, LENGTH, LENGTH + 1
_READ = LENGTH + 2
"""Places of the sum of the embeddings: the token that a code stands for, whether a turn ends with it, and 1."""
_DELAYED = 32
_COPIED = LENGTH + 1
_FOCUS = 40.0
"""How much queries and keys are scaled: the frame next to the right one gets e^-150 of its weight."""


@dataclass(frozen=True, slots=True)
class SpokenFrame:
    """A frame that is recognised: `half` are the 256 coefficients of its second half."""

    half: F32
    token: int
    last: bool


@cache
def spoken_frames() -> tuple[SpokenFrame, ...]:
    """Return the frames of all recordings in the order of their codes, from 1 on."""
    return tuple(_frames())


def _frames() -> Iterator[SpokenFrame]:
    tokens = {piece: token for token, (piece, _) in enumerate(stt_pieces())} | {"": END_OF_PADDING}
    for utterance in utterances():
        for shift in SHIFTS:
            halves, pieces = utterance.frames(shift), utterance.tokens(shift)
            audible = np.flatnonzero(np.linalg.norm(halves, axis=1) > ACTIVE_LEVEL)
            for frame in map(int, audible):
                token = tokens[pieces[frame]] if frame in pieces else PADDING
                yield SpokenFrame(halves[frame], token, frame == audible[-1])


def stt_pieces() -> list[Piece]:
    """Return the vocabulary: every piece of the caller's words once."""
    words = (word for utterance in utterances() for _, word in utterance.words)
    pieces = dict.fromkeys(piece for word in words for piece in pieces_of(word))
    return [*SPECIAL, *((piece, PieceType.NORMAL) for piece in pieces)]


def stt_shapes() -> Shapes:
    """Return the shapes of the model that knows the caller's words; what they say of a depformer means nothing."""
    return Shapes(DIM, _HEADS, 1, 64, 2, 1, 192, text_card=len(stt_pieces()), context=CONTEXT)


def stt_config(shapes: Shapes) -> dict[str, object]:
    """Return a config.json as that of kyutai/stt-1b-en_fr."""
    return config_of(shapes) | {
        "model_type": "stt",
        "n_q": SPEECH_CODEBOOKS,
        "dep_q": 0,
        "delays": [0] * (1 + SPEECH_CODEBOOKS),
        "hidden_scale": 4.125,
        "max_period": MAX_PERIOD,
        "gating": "silu",
        "norm": "rms_norm_f32",
        "extra_heads_num_heads": EXTRA_HEADS,
        "extra_heads_dim": HEAD_CLASSES,
        "stt_config": {"audio_silence_prefix_seconds": 0.0, "audio_delay_seconds": DELAY_S},
    }


def stt_tensors(shapes: Shapes) -> dict[str, Shape]:
    """Return every tensor's name and shape."""
    heads = {f"extra_heads.{head}.weight": (HEAD_CLASSES, shapes.dim) for head in range(EXTRA_HEADS)}
    return main_tensors(shapes, SPEECH_CODEBOOKS) | heads


def stt_lm() -> dict[str, F32]:
    """Return the weights of a model that writes down what the demo's caller says."""
    shapes = stt_shapes()
    weights = blank(stt_tensors(shapes))
    _write_codes(weights[f"audio_embs.{SPOKEN}.weight"])
    _write_delay(weights["transformer.layers.0.self_attn.in_proj.weight"], norm_factor(_READ))
    out = weights["transformer.layers.0.self_attn.out_proj.weight"]
    copied = np.arange(_COPIED)
    out[_DELAYED + copied, copied] = 1
    factor = norm_factor(_READ + _COPIED)
    patterns = PATTERNS[: shapes.text_card]
    weights["text_linear.weight"][:, _DELAYED : _DELAYED + LENGTH] = patterns * SHARPNESS / LENGTH / factor
    weights[f"extra_heads.{TURN_HEAD}.weight"][0, _DELAYED + _LAST] = SHARPNESS / factor
    return weights


def _write_codes(rows: F32) -> None:
    """Write what each code stands for, (2049, 256); the last row is the padding before a call."""
    rows[:, _TOKEN : _TOKEN + LENGTH], rows[:, _LAST], rows[:, _ONE] = PATTERNS[PADDING], -1, 1
    for code, frame in enumerate(spoken_frames(), 1):
        rows[code, _TOKEN : _TOKEN + LENGTH] = PATTERNS[frame.token]
        rows[code, _LAST] = 1 if frame.last else -1


def _write_delay(in_proj: F32, factor: float) -> None:
    """Let head 0 see the step `BEHIND` steps ago: (768, 256), rows of queries, keys and values."""
    angles = BEHIND * MAX_PERIOD ** (-np.arange(0, _HEAD, 2) / _HEAD)
    queries, keys, values = in_proj[:_HEAD], in_proj[DIM : DIM + _HEAD], in_proj[2 * DIM : 2 * DIM + _HEAD]
    queries[0::2, _ONE], queries[1::2, _ONE] = _FOCUS / factor * np.cos(angles), -_FOCUS / factor * np.sin(angles)
    keys[0::2, _ONE] = _FOCUS / factor
    copied = np.arange(_COPIED)
    values[copied, copied] = 1 / factor
