"""The encoder's and the decoder's stages: one batch of frames at a time, at most one frame of each call in it."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from workers.codec.codec import Codec, CodecError, Decoder, Encoder
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
Clock = Callable[[], float]


class _Calls:
    """The calls of one direction that are on, and when their next batch is due."""

    def __init__(self, codec: Codec, stage: Stage, clock: Clock) -> None:
        self._codec, self._stage = codec, stage
        self._scheduler = BatchScheduler(PATIENCE_S, clock)
        self._epochs: dict[Slot, Epoch] = {}

    def is_on(self, message: PipelineMessage) -> bool:
        """Whether this message belongs to the call that its slot has now."""
        return self._epochs.get(message.slot) == message.epoch

    def open(self, message: Open) -> None:
        self._codec.open(message.slot)
        self._epochs[message.slot] = message.epoch
        self._scheduler.call_ended(message.slot)

    def close(self, slot: Slot) -> None:
        del self._epochs[slot]
        self._scheduler.call_ended(slot)
        self._codec.close(slot)

    def fail(self, message: Frame | Codes, error: CodecError) -> Failed:
        self.close(message.slot)
        return Failed(message.slot, message.epoch, self._stage, str(error))

    def frame_arrived(self, slot: Slot) -> None:
        self._scheduler.frame_arrived(slot)

    def due_s(self, waiting: list[Slot]) -> float | None:
        return self._scheduler.due_s(waiting)


class EncoderStage:
    """The caller's frames become codes. Of each call at most one frame waits; an older one is dropped and counted."""

    def __init__(self, encoder: Encoder, silence: Payload, clock: Clock = time.monotonic) -> None:
        """`silence` are the codes of as many frames of silence as a greeting may have, shape (frames, 8)."""
        self._encoder, self._silence, self._clock = encoder, silence, clock
        self._calls = _Calls(encoder, Stage.ENCODE, clock)
        self._waiting: dict[Slot, Frame] = {}

    def due_s(self) -> float | None:
        return self._calls.due_s(list(self._waiting))

    def receive(self, message: PipelineMessage) -> list[PipelineMessage]:
        match message:
            case Frame():
                if self._calls.is_on(message):
                    self._wait(message)
                return []
            case Open(slot, _, greeting_frames):
                self._waiting.pop(slot, None)
                self._calls.open(message)
                return [replace(message, silence=self._silence[:greeting_frames])]
            case Close(slot) if self._calls.is_on(message):
                self._waiting.pop(slot, None)
                self._calls.close(slot)
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
            return self._calls.fail(frame, result)
        spans = (*frame.spans, span)
        return Codes(frame.slot, frame.epoch, frame.seq, result, dropped=frame.dropped, spans=spans)

    def _wait(self, frame: Frame) -> None:
        if older := self._waiting.get(frame.slot):
            frame = replace(frame, dropped=frame.dropped + older.dropped + 1)
        self._waiting[frame.slot] = frame
        self._calls.frame_arrived(frame.slot)


class DecoderStage:
    """Moshi's codes become frames, all of them and in order: a frame left out would be heard in the next ones.

    The engine may step all `greeting_frames` of a call at once.
    """

    def __init__(self, decoder: Decoder, greeting_frames: int = 0, clock: Clock = time.monotonic) -> None:
        self._decoder, self._clock = decoder, clock
        self._backlog = DECODE_BACKLOG + greeting_frames
        self._calls = _Calls(decoder, Stage.DECODE, clock)
        self._waiting: dict[Slot, deque[Codes]] = {}

    def due_s(self) -> float | None:
        return self._calls.due_s([slot for slot, frames in self._waiting.items() if frames])

    def receive(self, message: PipelineMessage) -> list[PipelineMessage]:
        match message:
            case Codes(slot):
                if self._calls.is_on(message):
                    self._waiting[slot].append(message)
                    self._calls.frame_arrived(slot)
                return []
            case Open(slot):
                self._calls.open(message)
                self._waiting[slot] = deque(maxlen=self._backlog)
            case Close(slot) if self._calls.is_on(message):
                del self._waiting[slot]
                self._calls.close(slot)
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
            del self._waiting[codes.slot]
            return self._calls.fail(codes, result)
        spans = (*codes.spans, span)
        return Frame(codes.slot, codes.epoch, codes.seq, result, codes.text, codes.dropped, spans, codes.tokens)
