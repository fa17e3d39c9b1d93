"""From what the app says of a prompt, a text and the name or the codes of a voice, to the prompt itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.checkpoints.files import CheckpointError
from workers.engine.prompt import MOST_TEXT_TOKENS, Prompt, PromptError, build_prompt, wrap_system_text
from workers.engine.voice_file import MOST_STEPS, VoiceEmbeddings, VoiceError, read_voice
from workers.messages import CODEBOOKS, CODES, CodeArray, PreparePrompt


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


def _checked(codes: CodeArray) -> CodeArray:
    if codes.ndim != 2 or codes.shape[1] != CODEBOOKS or codes.dtype.kind not in "iu" or not len(codes):
        raise PromptError("its voice is no codes of Mimi's")
    if len(codes) > MOST_STEPS:
        raise PromptError(f"its voice has {len(codes)} frames, more than {MOST_STEPS}")
    if codes.min() < 0 or codes.max() >= CODES:
        raise PromptError("its voice is no codes of Mimi's")
    return codes
