"""One call in the engine's stage: what waits for its next step, and what it has sent."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from workers.engine.delay_pattern import LogArray
from workers.engine.steering import Steering, Word
from workers.messages import GREETING, Codes, Epoch, Payload, Resumed

MOST_SENT = 128
"""More than can be under way to the app: the steps of a greeting, and about 5 s."""


class Vocabulary(Protocol):
    """Text to tokens and back."""

    def decoder(self) -> Callable[[int], str]:
        """Return what returns the text that a token adds to one call's transcript."""

    def words(self, text: str) -> Sequence[Word]:
        """Return the tokens of each word."""


def decoder(vocabulary: Vocabulary | None, steps: Iterable[LogArray] = ()) -> Callable[[int], str]:
    """Return the text decoder of a call that has made these steps."""
    decode_text = vocabulary.decoder() if vocabulary else lambda token: ""
    for step in steps:
        decode_text(int(step[0]))
    return decode_text


class SentSteps:
    """The last steps of a call as they were sent on: what a decoder that is lost takes with it.

    The call has made `count` steps, of which the model has forgotten the first `left_out`.
    """

    def __init__(self, count: int = 0, left_out: int = 0) -> None:
        self.count, self.left_out = count, left_out
        self._last: deque[Codes] = deque(maxlen=MOST_SENT)

    @property
    def last_seq(self) -> int:
        """The number of the caller's frame that was read last, -1 if it is not known."""
        return self._last[-1].seq if self._last else -1

    def add(self, step: Codes) -> None:
        """Add a step; one without tokens, the line test's, is in no log."""
        if step.tokens:
            self.count += 1
            self._last.append(step)

    def after(self, count: int, tokens: bytes) -> list[Codes] | None:
        """Return the steps behind the first `count`, the last of which has these `tokens`, to be sent again.

        None if that step was another, or if they are not all kept.
        """
        kept = [*self._last]
        first = len(kept) - (self.count - count)
        if not 0 <= first <= len(kept) or (first and kept[first - 1].tokens != tokens):
            return None
        return [replace(step, spans=()) for step in kept[first:]]


@dataclass
class Row:
    """One live call: what waits for its next step. The silence of its greeting goes before the caller's frames, and so
    does what they said until a call was back, and while that is stepped: `catches_up` more frames may queue.

    More `silence` takes the place of the caller's frames until the words of the greeting have been said; the last frame
    of it repeats.
    """

    epoch: Epoch
    decode_text: Callable[[int], str]
    greeting: deque[Codes]
    silence: deque[Payload] = field(default_factory=deque)
    steering: Steering = field(default_factory=Steering)
    frame: Codes | None = None
    catches_up: int = 0
    resumed: Resumed | None = None
    """What is to be said once the encoder is back too, of a call that comes back."""
    caller_is_heard: bool = False
    sent: SentSteps = field(default_factory=SentSteps)
    unanswered: Sequence[Codes] = ()
    """Steps that were lost with the last decoder, of a call that comes back."""

    def pop(self) -> Codes | None:
        if self.greeting:
            return self.greeting.popleft()
        frame, self.frame = self.frame, None
        return replace(frame, codes=self._next_silence()) if frame and self._hears_silence() else frame

    def wait(self, frame: Codes) -> None:
        """Let the caller's next frame wait in place of the last one, which is dropped unless the call catches up."""
        if self.frame and self.catches_up:
            self.catches_up -= 1
            self.greeting.append(self.frame)
        elif self.frame:
            frame = replace(frame, dropped=frame.dropped + self.frame.dropped + 1)
        self.frame = frame

    def _hears_silence(self) -> bool:
        return bool(self.silence) and self.steering.sentence == GREETING

    def _next_silence(self) -> Payload:
        return self.silence.popleft() if len(self.silence) > 1 else self.silence[0]
