"""The recordings of voices become codes, a frame at a time, in a slot of the codec's that is no call's."""

from collections import deque
from dataclasses import replace

import numpy as np

from workers.checkpoints.files import ReportProgress, report_nothing
from workers.codec.codec import Codec, CodecError, Row
from workers.messages import CODEBOOKS, FRAME_SAMPLES, Message, PreparePrompt, PromptRefused, Slot


class VoiceEncoder:
    """The prompts whose voices wait, in their order. Each frame reports progress: a call may wait for that prompt."""

    def __init__(self, encoder: Codec, slot: Slot, progress: ReportProgress = report_nothing) -> None:
        self._encoder, self._slot, self._progress = encoder, slot, progress
        self._prompts: deque[PreparePrompt] = deque()
        self._codes: list[Row] = []

    def __bool__(self) -> bool:
        return bool(self._prompts)

    def add(self, message: PreparePrompt) -> list[Message]:
        """Let a prompt wait; return its refusal when it has no voice."""
        assert message.pcm is not None
        if message.pcm.ndim != 2 or message.pcm.shape[1] != FRAME_SAMPLES or not len(message.pcm):
            return [PromptRefused(message.key, "its voice holds no frame of sound")]
        self._prompts.append(message)
        return []

    def drop(self, key: str) -> None:
        if self._codes and self._prompts[0].key == key:
            self._next()
        self._prompts = deque(prompt for prompt in self._prompts if prompt.key != key)

    def work(self) -> list[Message]:
        """Encode one frame; return a prompt whose voice is complete, or its refusal."""
        prompt = self._prompts[0]
        assert prompt.pcm is not None
        if not self._codes:
            self._encoder.open(self._slot)
        codes = self._encoder.run({self._slot: prompt.pcm[len(self._codes)]})[self._slot]
        if isinstance(codes, CodecError):
            self._next()
            return [PromptRefused(prompt.key, f"its voice cannot be encoded: {codes}")]
        self._codes.append(codes)
        self._progress("encoding a voice", len(self._codes), len(prompt.pcm))
        if len(self._codes) < len(prompt.pcm):
            return []
        done = replace(prompt, pcm=None, codes=np.array(self._codes)[:, :CODEBOOKS])
        self._next()
        return [done]

    def _next(self) -> None:
        """Go on to the next prompt."""
        self._prompts.popleft()
        self._codes = []
        self._encoder.close(self._slot)
