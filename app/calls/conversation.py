"""What a call needs to go on elsewhere: in a pipeline started anew, in a new stream, on another node.

The state of a call is its token log: what Moshi read and sampled in each step. A `Conversation` keeps it from the
first step on, and the caller's last frames, from which an encoder gets back to where it was.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from workers.messages import STEP_TOKENS, CallPersona, Epoch, Open, Pcm, PreparePrompt, Resume, Slot

STEP_BYTES = 2 * STEP_TOKENS
MOST_STEPS = 12 * 3600 * 25 // 2
"""Twelve hours, 18 MB; of a longer call the first steps are forgotten."""
HEARD_FRAMES = 1_000
"""80 s: how far Mimi looks back."""
FULL_SCALE = 32_767.0


@dataclass(frozen=True, slots=True)
class ConversationHeader:
    """What a pipeline must have to go on with a call: the first record of a token log.

    `checkpoint` is the engine's digest. `prompt` is the one-time prompt that the call began with, None if it has none
    or that of its persona, which is known by `call.prompt`. `began_s` is when the call got its first slot, in seconds
    since 1970, 0 if that is not known, `record` whether a recording was asked for.
    """

    checkpoint: str = ""
    persona: str = ""
    call: CallPersona = field(default_factory=CallPersona)
    seed: int | None = None
    prompt: PreparePrompt | None = None
    began_s: float = 0.0
    record: bool = False

    def age_s(self, wall_s: float) -> float:
        """Return how long ago the call began; 0 if it began in the future of another node's clock."""
        return max(0.0, wall_s - self.began_s) if self.began_s else 0.0


@dataclass
class Conversation:
    """`log` are the steps after `skipped` ones that are forgotten, `STEP_BYTES` each."""

    header: ConversationHeader
    log: bytearray = field(default_factory=bytearray)
    skipped: int = 0
    _heard: deque[NDArray[np.int16]] = field(default_factory=lambda: deque(maxlen=HEARD_FRAMES))

    @property
    def steps(self) -> int:
        return self.skipped + len(self.log) // STEP_BYTES

    def add_step(self, tokens: bytes) -> None:
        """Add what came as `Frame.tokens`; the line test has none."""
        if len(tokens) == STEP_BYTES:
            self.log += tokens
        if len(self.log) > MOST_STEPS * STEP_BYTES:
            forgotten = MOST_STEPS // 10
            del self.log[: forgotten * STEP_BYTES]
            self.skipped += forgotten

    def add_heard(self, pcm: Pcm) -> None:
        self._heard.append(to_int16(pcm))

    @property
    def heard(self) -> NDArray[np.int16] | None:
        """The caller's last frames, (frames, 1920); None without any, as on another node."""
        return np.stack(self._heard) if self._heard else None

    def open(self, slot: Slot, epoch: Epoch, greeting_frames: int, checkpoint: str) -> Open:
        """Return the message that begins it, in a pipeline with this checkpoint."""
        self.header = replace(self.header, checkpoint=checkpoint)
        return Open(slot, epoch, greeting_frames, seed=self.header.seed, persona=self.header.call)

    def resume(self, slot: Slot, epoch: Epoch, seq: int, gap: Sequence[Pcm], budget_s: float) -> Resume:
        """Return the message that goes on with it; of the frames in the `gap` the first is `seq`."""
        return Resume(
            slot,
            epoch,
            bytes(self.log),
            seq,
            budget_s,
            skipped=self.skipped,
            seed=self.header.seed,
            persona=self.header.call,
            checkpoint=self.header.checkpoint,
            heard=self.heard,
            gap=np.stack([to_int16(pcm) for pcm in gap]) if gap else None,
        )


def to_int16(pcm: Pcm) -> NDArray[np.int16]:
    """Return samples of [-1, 1] as integers."""
    scaled: NDArray[np.int16] = np.clip(np.rint(pcm * FULL_SCALE), -FULL_SCALE, FULL_SCALE).astype(np.int16)
    return scaled
