"""What a PersonaPlex checkpoint reads before a call, a voice and a system text, from what the app says of them.

All tokens of a prompt are given, so that it needs no depformer and goes through the transformer in one pass. Its
frames are the voice, 6 of silence, one for each text token, 6 of silence (`lm.py` of NVIDIA/personaplex 3428dfd).

The delays are those of `delay_pattern`: position p reads text and codebook 0 of both voices of frame p, codebooks 1 to
7 of frame p - 1. Position 0 reads the initial tokens; at position 1 codebooks 1 to 7 are still initial, so nothing of
frame 0 is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workers.checkpoints.files import CheckpointError
from workers.engine.delay_pattern import TEXT_PADDING
from workers.engine.voice_file import CACHE_COLUMNS, MOST_STEPS, VoiceEmbeddings, VoiceError, read_voice
from workers.messages import CODEBOOKS, CODES, CodeArray, PreparePrompt

if TYPE_CHECKING:
    from moshi_mlx.models import LmConfig

AGENT_SILENCE = np.array([948, 243, 1178, 546, 1736, 1030, 1978, 2008], np.int32)
"""Mimi's codes of digital silence."""
USER_SINE = np.array([430, 1268, 381, 1611, 1095, 1495, 56, 472], np.int32)
"""Mimi's codes of a tone of 440 Hz: what the user says in a prompt."""
SPACER_FRAMES = 6
MOST_TEXT_TOKENS = 500
"""Longer texts would take a good part of the 3,000 steps that the model remembers."""
CHUNKS = tuple(1 << n for n in range(8))
"""Positions of a pass, 1 to 128: enough to keep the products busy."""
SYSTEM_MARK = "<system>"
DELAYS = [0, *[1] * 7, 0, *[1] * 7]
"""In steps, of the codebooks of both voices."""
DELAYED = [*range(2, 9), *range(10, 17)]
"""Codebooks 1 to 7 of both voices among the 17 tokens of a position."""
Tokens = NDArray[np.int32]


class PromptError(ValueError):
    """A prompt cannot be computed; the message is one line without the persona's name."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The inputs of the positions of a prompt.

    `embeddings` (n, dim) float32 are read by positions 0 .. n-1 in place of tokens, n may be 0; `tokens` (m, 17) int32
    by the m positions after them. The last of all is read by the first live step: `last`.
    """

    embeddings: NDArray[np.float32]
    tokens: Tokens

    @property
    def positions(self) -> int:
        """How many positions are prefilled, all but the last."""
        return len(self.embeddings) + len(self.tokens) - 1

    @property
    def last(self) -> Tokens:
        """What the first live step reads, shape (17,)."""
        last: Tokens = self.tokens[-1]
        return last

    def inputs(self, start: int, most: int) -> NDArray[np.float32] | Tokens:
        """Return what positions start, start+1, … read, at most so many, and only of one kind."""
        if start < (count := len(self.embeddings)):
            return self.embeddings[start : start + most]
        return self.tokens[start - count : min(start + most, self.positions) - count]


def wrap_system_text(text: str) -> str:
    """Return a system text as the model was trained to read it; "" stays ""."""
    text = text.strip()
    if not text or (text.startswith(SYSTEM_MARK) and text.endswith(SYSTEM_MARK)):
        return text
    return f"{SYSTEM_MARK} {text} {SYSTEM_MARK}"


def build_prompt(
    text_tokens: list[int], voice: CodeArray | VoiceEmbeddings | None, text_start: int, padding: int
) -> Prompt:
    """Return the prompt of a system text and a voice.

    `voice` is Mimi's codes of a recording, shape (frames, 8), or the embeddings of a voice file, or None. `text_start`
    and `padding` are the model's initial tokens.
    """
    spoken = np.zeros((1, CODEBOOKS), np.int32) if isinstance(voice, VoiceEmbeddings) else voice
    rest = SPACER_FRAMES + len(text_tokens) + SPACER_FRAMES
    agent = np.concatenate([*([] if spoken is None else [spoken]), np.tile(AGENT_SILENCE, (rest, 1))])
    text = (
        [TEXT_PADDING] * (len(agent) - SPACER_FRAMES - len(text_tokens)) + text_tokens + [TEXT_PADDING] * SPACER_FRAMES
    )
    frames = np.concatenate(
        [np.array(text)[:, None], agent, np.tile(USER_SINE, (len(agent), 1))], axis=1, dtype=np.int32
    )
    if isinstance(voice, VoiceEmbeddings):
        count = len(voice.embeddings)
        columns = (voice.cache[:, (count + step) % CACHE_COLUMNS] for step in range(2))
        return Prompt(voice.embeddings, _delayed(frames, *columns))
    initial = np.array([text_start, *[padding] * (2 * CODEBOOKS)], np.int32)
    return Prompt(np.zeros((0, 0), np.float32), _delayed(frames, initial, initial))


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Reads prompts for one checkpoint: `encode` is its tokenizer, `find_voice` returns the file of one of its voices.

    `initial_tokens` are those of the engine.
    """

    encode: Callable[[str], list[int]]
    find_voice: Callable[[str], Path]
    initial_tokens: tuple[int, int]

    def read(self, message: PreparePrompt) -> Prompt:
        """Raises PromptError."""
        text = self.encode(wrap_system_text(message.text))
        if len(text) > MOST_TEXT_TOKENS:
            raise PromptError(f"its text has {len(text)} tokens, more than {MOST_TEXT_TOKENS}")
        return build_prompt(text, self._voice(message), *self.initial_tokens)

    def _voice(self, message: PreparePrompt) -> CodeArray | VoiceEmbeddings | None:
        if message.codes is not None:
            return _checked(message.codes)
        if not message.voice:
            return None
        path = Path(message.voice)
        try:
            if not (path.is_absolute() and path.is_file()):
                path = self.find_voice(message.voice)
            return read_voice(path)
        except CheckpointError as error:
            raise PromptError(str(error)) from error
        except VoiceError as error:
            raise PromptError(f"its voice {path.name}: {error}") from error
        except OSError as error:
            raise PromptError(f"its voice {path.name} cannot be read: {error.strerror}") from error


def check_prompt(prompt: Prompt, model: "LmConfig", context: int) -> None:
    """Raise PromptError unless a model that remembers `context` steps can read this prompt."""
    width, dim = prompt.embeddings.shape[1], model.transformer.d_model
    largest = np.array([model.text_out_vocab_size, *[model.audio_padding_token] * (2 * CODEBOOKS)])
    if list(model.audio_delays) != DELAYS:
        raise PromptError("the checkpoint has another delay pattern than PersonaPlex")
    if len(prompt.embeddings) and width != dim:
        raise PromptError(f"its voice is {width} wide, the checkpoint {dim}")
    if (prompt.tokens < 0).any() or (prompt.tokens > largest).any():
        raise PromptError("its voice names tokens that the checkpoint has not")
    if prompt.positions >= context:
        raise PromptError(f"it takes {prompt.positions} steps, of {context} that a call remembers")


def _delayed(frames: Tokens, first: Tokens, second: Tokens) -> Tokens:
    """Return what the positions of `frames` read, both (positions, 17), the first two as `first` and `second` say.

    Position p reads text and codebooks 0 of frame p, the others of frame p - 1. Position 0 reads `first` instead,
    position 1 the delayed codebooks of `second`.
    """
    tokens = frames.copy()
    tokens[1:, DELAYED] = frames[:-1, DELAYED]
    tokens[0], tokens[1, DELAYED] = first, second[DELAYED]
    return tokens


def _checked(codes: CodeArray) -> CodeArray:
    is_codes = codes.ndim == 2 and codes.shape[1] == CODEBOOKS and codes.dtype.kind in "iu" and len(codes)
    if not is_codes or codes.min() < 0 or codes.max() >= CODES:
        raise PromptError("its voice is no codes of Mimi's")
    if len(codes) > MOST_STEPS:
        raise PromptError(f"its voice has {len(codes)} frames, more than {MOST_STEPS}")
    return codes
