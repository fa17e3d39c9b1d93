"""Text tokens of speech-to-text become words with times; pure.

Ids 3 (padding) and 0 (padding whose end a word follows) are silent. At either of them the word that has been collected
is complete: it began at the last 0 and has ended now, as far as is known. Times are those of Kyutai's Rust server
(`rust/moshi-server/src/asr.rs`): the text is `delay_steps` behind the speech, and what comes before as many steps are
done is no word. The server has done p + 2 steps when ours, which reads frame p in step p, is at p: so the time of step
p is (p + 2 - delay_steps) frames. It leaves the end of a word open until the next 0, which may be a pause later; ours
is given when the word is complete.
"""

from collections.abc import Callable
from dataclasses import dataclass

from workers.engine.delay_pattern import TEXT_END_OF_PADDING, TEXT_PADDING
from workers.messages import FRAME_S

MOST_PIECES = 64
"""A longer word is no word, and is split."""
SILENT = (TEXT_END_OF_PADDING, TEXT_PADDING)
_STEPS_AHEAD = 2


@dataclass(frozen=True, slots=True)
class SpeechTiming:
    """How many steps the text is behind the speech, and how many of silence the model wants before a call."""

    delay_steps: int
    prefix_steps: int


@dataclass(frozen=True, slots=True)
class TimedWord:
    text: str
    start_s: float
    stop_s: float


class WordTimer:
    """The words of one call, whose first step reads `first_frame`; `decode` returns the text of a token."""

    def __init__(self, delay_steps: int, first_frame: int, decode: Callable[[int], str]) -> None:
        self._delay, self._decode = delay_steps, decode
        self._steps = 0
        self._pieces: list[str] = []
        self._start_s = self._now_s = first_frame * FRAME_S

    @property
    def in_word(self) -> bool:
        """Whether a word has begun that is not complete."""
        return bool(self._pieces)

    def step(self, token: int, frame: int) -> TimedWord | None:
        """Handle the token of the step that read `frame`; return the word that it completes."""
        self._steps += 1
        if self._steps - 1 + _STEPS_AHEAD < self._delay:
            return None
        self._now_s = (frame + _STEPS_AHEAD - self._delay) * FRAME_S
        word = None
        if token not in SILENT:
            self._pieces.append(self._decode(token))
        if token in SILENT or len(self._pieces) == MOST_PIECES:
            word = self.finish()
        if token == TEXT_END_OF_PADDING:
            self._start_s = self._now_s
        return word

    def finish(self) -> TimedWord | None:
        """Return the word that was begun, if any: nothing more comes."""
        text, self._pieces = "".join(self._pieces).strip(), []
        return TimedWord(text, self._start_s, self._now_s) if text else None
