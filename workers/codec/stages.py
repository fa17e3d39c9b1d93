"""The encoder's and the decoder's stage: one batch of frames at a time, at most one frame of each call in it.

The past of a call that comes back (`Resume`) is replayed while no frame of another call waits; one that is late takes
turns with them. Its own frames wait.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from workers.checkpoints.files import ReportProgress, report_nothing
from workers.codec.codec import Codec, CodecError, Row
from workers.codec.replay import Replay, ReplayBatch
from workers.codec.voice_encoder import VoiceEncoder
from workers.messages import (
    CODEBOOKS,
    GAP_FRAMES,
    SPEECH_CODEBOOKS,
    Close,
    Codes,
    DropPrompt,
    Epoch,
    Failed,
    Frame,
    Message,
    Open,
    PreparePrompt,
    PromptMessage,
    Resume,
    Resumed,
    Said,
    Slot,
    Span,
    Speech,
    SpeechEnded,
    SpeechMessage,
    Stage,
)
from workers.scheduler import BatchScheduler

DECODE_BACKLOG = 64
"""Frames of a call, beside those of its greeting, that may wait to be decoded; older ones are dropped."""
SILENT_FRAMES = 25
"""How many frames of silence the encoder has ready at least; by then the codes repeat."""
PATIENCE_S = 0.003
"""How long a frame waits for those of other calls: they come within a moment, or much later."""
FULL_SCALE = np.float32(32_767)
"""Of the caller's past, which comes as integers."""
Audio = Frame | Codes
Onward = Message | SpeechMessage
"""What goes on to the next stage, or to the transcriber."""


class CodecStage:
    """Frames become codes, or codes frames, in order; of each call at most `backlog` of them wait."""

    stage: Stage
    result: type[Audio]

    def __init__(self, codec: Codec, backlog: int | None, clock: Callable[[], float], progress: ReportProgress) -> None:
        self._codec, self._backlog, self._clock = codec, backlog, clock
        self._scheduler = BatchScheduler(PATIENCE_S, clock)
        self._epochs: dict[Slot, Epoch] = {}
        self._waiting: dict[Slot, deque[Audio]] = {}
        self._replays = ReplayBatch(codec, clock, progress)

    def due_s(self) -> float | None:
        due_s = self._scheduler.due_s(
            [slot for slot, frames in self._waiting.items() if frames and self._is_live(slot)]
        )
        return 0.0 if due_s is None and self._replays else due_s

    def receive(self, message: Message) -> list[Onward]:
        if isinstance(message, PromptMessage):
            return [message]
        is_on = self._epochs.get(message.slot) == message.epoch
        match message:
            case Frame() | Codes():
                if is_on:
                    self._wait(message)
                    self._scheduler.frame_arrived(message.slot)
                return []
            case Open(slot, epoch) | Resume(slot, epoch):
                self._replays.remove(slot)
                self._codec.open(slot)
                self._epochs[slot], self._waiting[slot] = epoch, deque(maxlen=self._backlog)
                self._scheduler.call_ended(slot)
            case Close(slot) if is_on:
                self._close(slot)
        return [message]

    def work(self) -> list[Onward]:
        batch = {slot: frames.popleft() for slot, frames in self._waiting.items() if frames and self._is_live(slot)}
        live = self._run(batch) if batch else []
        ended = self._replays.work() if not batch or self._replays.any_late else []
        return [*live, *(message for replay in ended for message in self._end_replay(replay))]

    def _run(self, batch: dict[Slot, Audio]) -> list[Onward]:
        audio = {slot: _audio_of(message) for slot, message in batch.items()}
        started_s = self._clock()
        results = self._codec.run({slot: frame for slot, frame in audio.items() if frame is not None})
        span = Span(self.stage, started_s, self._clock())
        outcomes = (self._outcome(message, results.get(slot), span) for slot, message in batch.items())
        return [message for outcome in outcomes for message in outcome]

    def _wait(self, message: Audio) -> None:
        self._waiting[message.slot].append(message)

    def _is_live(self, slot: Slot) -> bool:
        return slot not in self._replays

    def _end_replay(self, replay: Replay) -> list[Onward]:
        slot, epoch = replay.slot, self._epochs[replay.slot]
        if replay.error is None:
            return self._replayed(replay, epoch)
        self._close(slot)
        return [Failed(slot, epoch, self.stage, str(replay.error))]

    def _replayed(self, replay: Replay, epoch: Epoch) -> list[Onward]:
        """Return what goes on to the next stage when the past of a call has been replayed."""
        raise NotImplementedError

    def _outcome(self, of: Audio, result: Row | CodecError | None, span: Span) -> list[Onward]:
        if isinstance(result, CodecError):
            self._close(of.slot)
            return [Failed(of.slot, of.epoch, self.stage, str(result))]
        return [self.result(of.slot, of.epoch, of.seq, result, of.text, of.dropped, (*of.spans, span), of.tokens)]

    def _close(self, slot: Slot) -> None:
        del self._epochs[slot], self._waiting[slot]
        self._replays.remove(slot)
        self._scheduler.call_ended(slot)
        self._codec.close(slot)


class EncoderStage(CodecStage):
    """The caller's frames become codes. Of each call at most one frame waits; an older one is dropped and counted. But
    of a call that comes back `GAP_FRAMES` more may wait, until it has caught up.

    An encoder that gives all 32 codes of a frame does so for the transcriber: Moshi's eight go on to the engine.
    """

    stage, result = Stage.ENCODE, Codes

    def __init__(
        self,
        encoder: Codec,
        silence: Row,
        spare: Slot,
        clock: Callable[[], float] = time.monotonic,
        progress: ReportProgress = report_nothing,
    ) -> None:
        """`silence` are the codes of as many frames of silence as a greeting may have, one at least: (frames, 8).

        The slot `spare`, which is no call's, is for the voices of prompts.
        """
        super().__init__(encoder, None, clock, progress)
        self._silence, self._transcribes = _for_moshi(silence), _is_speech(silence)
        self._voices, self._voice_due = VoiceEncoder(encoder, spare), False
        self._gap_seq: dict[Slot, int] = {}
        """The number of the first frame after the past of a call that is replayed."""
        self._catches_up: dict[Slot, int] = {}
        """How many more frames may wait."""

    def due_s(self) -> float | None:
        if (due_s := super().due_s()) is not None:
            return due_s
        return 0.0 if self._voices and (self._voice_due or not self._scheduler.any_live) else None

    def receive(self, message: Message) -> list[Onward]:
        match message:
            case Open():
                self._catches_up[message.slot] = 0
                frames = None if message.persona.greeting else message.greeting_frames
                message = replace(message, silence=self._silence[:frames])
            case PreparePrompt() if message.pcm is not None:
                return [*self._voices.add(message)]
            case DropPrompt(key):
                self._voices.drop(key)
            case Resume():
                self._catches_up[message.slot] = GAP_FRAMES
                return [*super().receive(replace(message, heard=None, gap=None)), *self._resume(message)]
        ended = [SpeechEnded(message.slot, message.epoch)] if self._transcribes and isinstance(message, Close) else []
        return [*ended, *super().receive(message)]

    def work(self) -> list[Onward]:
        """Encode a batch of the callers' frames, or if none waits a frame of a voice: one after each batch."""
        self._voice_due = super().due_s() is not None
        return super().work() if self._voice_due else [*self._voices.work()]

    def _outcome(self, of: Audio, result: Row | CodecError | None, span: Span) -> list[Onward]:
        if not isinstance(result, np.ndarray) or not self._transcribes:
            return super()._outcome(of, result, span)
        speech = Speech(of.slot, of.epoch, of.seq, result)
        return [*super()._outcome(of, _for_moshi(result), span), speech]

    def _resume(self, message: Resume) -> list[Message]:
        """Replay what the caller said, and encode what they said since; `Resumed` tells the engine that all is done."""
        parts = [part for part in (message.heard, message.gap) if part is not None and len(part)]
        if not parts:
            return [Resumed(message.slot, message.epoch, 0, 0)]
        self._gap_seq[message.slot] = message.seq
        wanted = 0 if message.gap is None else len(message.gap)
        self._replays.add(message.slot, np.concatenate(parts).astype(np.float32) / FULL_SCALE, wanted)
        return []

    def _replayed(self, replay: Replay, epoch: Epoch) -> list[Onward]:
        slot, seq = replay.slot, self._gap_seq.pop(replay.slot)
        gap = [Codes(slot, epoch, seq + number, _for_moshi(codes)) for number, codes in enumerate(replay.results)]
        speech = [
            Speech(slot, epoch, seq + number, codes) for number, codes in enumerate(replay.results) if self._transcribes
        ]
        steps = len(replay.frames) - replay.wanted - replay.left_out
        return [*gap, *speech, Resumed(slot, epoch, steps, replay.left_out)]

    def _wait(self, message: Audio) -> None:
        slot, waiting = message.slot, self._waiting[message.slot]
        if waiting and self._catches_up[slot]:
            self._catches_up[slot] -= 1
        elif waiting:
            message = replace(message, dropped=message.dropped + sum(older.dropped + 1 for older in waiting))
            waiting.clear()
        super()._wait(message)


class DecoderStage(CodecStage):
    """Moshi's codes become frames, all of them and in order: a frame left out would be heard in the next ones.

    The engine may step all `greeting_frames` of a call at once. What has been said is passed on behind the frame with
    its last word, and that a call is back when its past has been replayed.
    """

    stage, result = Stage.DECODE, Frame

    def __init__(
        self,
        decoder: Codec,
        greeting_frames: int = 0,
        clock: Callable[[], float] = time.monotonic,
        progress: ReportProgress = report_nothing,
    ) -> None:
        super().__init__(decoder, DECODE_BACKLOG + greeting_frames, clock, progress)
        self._said: list[tuple[int, Said]] = []
        """What waits until the frame of this `seq` has been decoded."""
        self._resumed: dict[Slot, Resumed] = {}
        """What waits until the past of its call has been replayed."""

    def receive(self, message: Message) -> list[Onward]:
        if isinstance(message, Resume):
            passed = super().receive(replace(message, own_codes=None))
            if message.own_codes is not None and len(message.own_codes):
                self._replays.add(message.slot, message.own_codes)
            return passed
        if isinstance(message, Resumed) and not self._is_live(message.slot):
            self._resumed[message.slot] = message
            return []
        if isinstance(message, Said) and (frames := self._waiting.get(message.slot)):
            self._said.append((frames[-1].seq, message))
            return []
        return super().receive(message)

    def work(self) -> list[Onward]:
        messages, waiting, self._said = super().work(), self._said, []
        for seq, said in waiting:
            if self._epochs.get(said.slot) != said.epoch:
                continue
            if (frames := self._waiting[said.slot]) and frames[0].seq <= seq:
                self._said.append((seq, said))
            else:
                messages.append(said)
        return messages

    def _replayed(self, replay: Replay, epoch: Epoch) -> list[Onward]:
        resumed = self._resumed.pop(replay.slot, None)
        return [resumed] if resumed and resumed.epoch == epoch else []


def _audio_of(message: Audio) -> Row | None:
    return message.pcm if isinstance(message, Frame) else message.codes


def _is_speech(codes: Row) -> bool:
    """Whether these are codes for the transcriber, (32,) or (frames, 32)."""
    return bool(codes.shape[-1] == SPEECH_CODEBOOKS)


def _for_moshi(codes: Row) -> Row:
    """Return the codes that Moshi reads; what is no codes, in the line test, stays as it is."""
    return codes[..., :CODEBOOKS] if _is_speech(codes) else codes
