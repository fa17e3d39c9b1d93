"""The encoder's and the decoder's stages: one batch of frames at a time, at most one frame of each call in it."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from workers.codec.door import Decoder, Encoder
from workers.codec.error import CodecError
from workers.messages import (
    Close,
    CodeArray,
    Codes,
    Epoch,
    Failed,
    Frame,
    Open,
    Payload,
    Pcm,
    PipelineMessage,
    Slot,
    Span,
    Stage,
)
from workers.scheduler import BatchScheduler

DECODE_BACKLOG = 64
"""Frames of a call, beside those of its greeting, that may wait to be decoded; older ones are dropped."""
PATIENCE_S = 0.003
"""How long a frame waits for those of other calls: they come within a moment, or much later."""


class EncoderStage:
    """The caller's frames become codes. Of each call at most one frame waits; an older one is dropped and counted."""

    def __init__(self, encoder: Encoder, silence: Payload, clock: Callable[[], float] = time.monotonic) -> None:
        self._encoder = encoder
        self._silence = silence
        self._clock = clock
        self._scheduler = BatchScheduler(PATIENCE_S, clock)
        self._epochs: dict[Slot, Epoch] = {}
        self._waiting: dict[Slot, Frame] = {}

    def due_s(self) -> float | None:
        return self._scheduler.due_s(self._waiting)

    def receive(self, message: PipelineMessage) -> list[PipelineMessage]:
        match message:
            case Frame(slot, epoch):
                if self._epochs.get(slot) == epoch:
                    self._wait(message)
                return []
            case Open(slot, epoch, greeting_frames):
                self._forget(slot)
                self._encoder.open(slot)
                self._epochs[slot] = epoch
                return [replace(message, silence=self._silence[:greeting_frames])]
            case Close(slot, epoch):
                if self._epochs.get(slot) == epoch:
                    self._forget(slot)
                    self._encoder.close(slot)
                return [message]
            case _:
                return [message]

    def work(self) -> list[PipelineMessage]:
        batch, self._waiting = self._waiting, {}
        frames: dict[Slot, Pcm] = {slot: frame.pcm for slot, frame in batch.items() if frame.pcm is not None}
        started_s = self._clock()
        encoded = self._encoder.encode(frames)
        span = Span(Stage.ENCODE, started_s, self._clock())
        return [self._outcome(batch[slot], result, span) for slot, result in encoded.items()]

    def _outcome(self, frame: Frame, result: Payload | CodecError, span: Span) -> PipelineMessage:
        if isinstance(result, CodecError):
            self._forget(frame.slot)
            self._encoder.close(frame.slot)
            return Failed(frame.slot, frame.epoch, Stage.ENCODE, str(result))
        spans = (*frame.spans, span)
        return Codes(frame.slot, frame.epoch, frame.seq, result, dropped=frame.dropped, spans=spans)

    def _wait(self, frame: Frame) -> None:
        older = self._waiting.get(frame.slot)
        dropped = frame.dropped + (older.dropped + 1 if older else 0)
        self._waiting[frame.slot] = replace(frame, dropped=dropped)
        self._scheduler.frame_arrived(frame.slot)

    def _forget(self, slot: Slot) -> None:
        self._epochs.pop(slot, None)
        self._waiting.pop(slot, None)
        self._scheduler.call_ended(slot)


class DecoderStage:
    """Moshi's codes become frames, every one of them and in order: a frame left out would be heard in the next ones.

    The engine may step all `greeting_frames` of a call at once.
    """

    def __init__(self, decoder: Decoder, greeting_frames: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._decoder = decoder
        self._backlog = DECODE_BACKLOG + greeting_frames
        self._clock = clock
        self._scheduler = BatchScheduler(PATIENCE_S, clock)
        self._epochs: dict[Slot, Epoch] = {}
        self._waiting: dict[Slot, deque[Codes]] = {}

    def due_s(self) -> float | None:
        return self._scheduler.due_s([slot for slot, frames in self._waiting.items() if frames])

    def receive(self, message: PipelineMessage) -> list[PipelineMessage]:
        match message:
            case Codes(slot, epoch):
                if self._epochs.get(slot) == epoch:
                    self._waiting[slot].append(message)
                    self._scheduler.frame_arrived(slot)
                return []
            case Open(slot, epoch):
                self._forget(slot)
                self._decoder.open(slot)
                self._epochs[slot] = epoch
                self._waiting[slot] = deque(maxlen=self._backlog)
            case Close(slot, epoch):
                if self._epochs.get(slot) == epoch:
                    self._forget(slot)
                    self._decoder.close(slot)
        return [message]

    def work(self) -> list[PipelineMessage]:
        batch = {slot: frames.popleft() for slot, frames in self._waiting.items() if frames}
        codes: dict[Slot, CodeArray] = {slot: one.codes for slot, one in batch.items() if one.codes is not None}  # type: ignore[misc]
        started_s = self._clock()
        decoded = self._decoder.decode(codes)
        span = Span(Stage.DECODE, started_s, self._clock())
        return [self._outcome(frame, decoded.get(slot), span) for slot, frame in batch.items()]

    def _outcome(self, codes: Codes, result: Pcm | CodecError | None, span: Span) -> PipelineMessage:
        if isinstance(result, CodecError):
            self._forget(codes.slot)
            self._decoder.close(codes.slot)
            return Failed(codes.slot, codes.epoch, Stage.DECODE, str(result))
        spans = (*codes.spans, span)
        return Frame(codes.slot, codes.epoch, codes.seq, result, codes.text, codes.dropped, spans, codes.tokens)

    def _forget(self, slot: Slot) -> None:
        self._epochs.pop(slot, None)
        self._waiting.pop(slot, None)
        self._scheduler.call_ended(slot)
