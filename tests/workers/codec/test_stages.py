from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.codec.codec import CodecError, silence_codes
from workers.codec.stages import DECODE_BACKLOG, PATIENCE_S, DecoderStage, EncoderStage
from workers.messages import (
    Close,
    Codes,
    Epoch,
    Failed,
    Frame,
    Open,
    Pcm,
    PipelineMessage,
    Slot,
    Span,
    Stage,
)

A, B = Slot(0), Slot(1)
SILENCE = np.arange(24, dtype=np.int32).reshape(3, 8)
BROKEN, REFUSED = -1, -2
AnyStage = EncoderStage | DecoderStage
Audio = Callable[..., Frame | Codes]
Row = NDArray[Any]


@dataclass
class Tape:
    """A codec that answers every frame with its number since the call was opened, and notes all that is done to it."""

    batches: list[dict[Slot, int]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    counts: dict[Slot, int] = field(default_factory=dict)

    def open(self, slot: Slot) -> None:
        self.done.append(f"open {slot}")
        self.counts[slot] = 0

    def close(self, slot: Slot) -> None:
        self.done.append(f"close {slot}")
        del self.counts[slot]

    def encode(self, frames: Mapping[Slot, Pcm]) -> dict[Slot, Any]:
        return self._take(frames)

    def decode(self, codes: Mapping[Slot, Row]) -> dict[Slot, Any]:
        return self._take(codes)

    def _take(self, frames: Mapping[Slot, Row]) -> dict[Slot, Row | CodecError]:
        assert frames.keys() <= self.counts.keys(), "a call that is not open"
        if frames:
            self.batches.append({slot: int(frame[0]) for slot, frame in frames.items()})
        return {slot: self._next(slot, frame) for slot, frame in frames.items()}

    def _next(self, slot: Slot, frame: Row) -> Row | CodecError:
        if frame[0] == REFUSED:
            return CodecError("nobody takes this")
        if frame[0] == BROKEN:
            return CodecError("this call's audio is broken")
        self.counts[slot] += 1
        return np.full(8, self.counts[slot])


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pcm(value: float) -> Pcm:
    return np.full(1_920, value, np.float32)


def spoken(seq: int, slot: Slot = A, epoch: int = 1, value: int | None = None) -> Frame:
    return Frame(slot, Epoch(epoch), seq, pcm(seq if value is None else value))


def coded(seq: int, slot: Slot = A, epoch: int = 1, value: int | None = None, text: str = "") -> Codes:
    return Codes(slot, Epoch(epoch), seq, np.full(8, seq if value is None else value, np.int32), text)


def opened(slot: Slot = A, epoch: int = 1, greeting_frames: int = 0) -> Open:
    return Open(slot, Epoch(epoch), greeting_frames)


def closed(slot: Slot = A, epoch: int = 1) -> Close:
    return Close(slot, Epoch(epoch))


def encoder_of(tape: Tape, clock: Callable[[], float] = Clock()) -> EncoderStage:  # noqa: B008 - it stands still
    return EncoderStage(tape, SILENCE, clock)


def decoder_of(tape: Tape, clock: Callable[[], float] = Clock()) -> DecoderStage:  # noqa: B008 - it stands still
    return DecoderStage(tape, clock=clock)


@pytest.fixture(params=["encoder", "decoder"])
def both(request: pytest.FixtureRequest) -> tuple[AnyStage, Tape, Audio]:
    """An encoder or a decoder, the tape it runs on and its kind of audio."""
    tape = Tape()
    return (encoder_of(tape), tape, spoken) if request.param == "encoder" else (decoder_of(tape), tape, coded)


def receive(stage: AnyStage, *messages: PipelineMessage) -> list[PipelineMessage]:
    return [out for message in messages for out in stage.receive(message)]


def work(stage: AnyStage) -> list[PipelineMessage]:
    """Work until nothing is left to do."""
    done: list[PipelineMessage] = []
    while stage.due_s() is not None:
        done += stage.work()
    return done


def seqs(messages: list[PipelineMessage]) -> list[tuple[Slot, int]]:
    return [(message.slot, message.seq) for message in messages if isinstance(message, Frame | Codes)]


def values(messages: list[PipelineMessage]) -> list[int]:
    """What the codec answered, message by message."""
    answers = [m.codes if isinstance(m, Codes) else m.pcm for m in messages if isinstance(m, Frame | Codes)]
    return [int(answer[0]) for answer in answers if answer is not None]


# Both directions.


def test_a_call_is_computed_frame_by_frame(both: tuple[AnyStage, Tape, Audio]) -> None:
    stage, tape, audio = both
    receive(stage, opened())
    out = [message for seq in range(3) for message in (*receive(stage, audio(seq)), *work(stage))]
    assert seqs(out) == [(A, 0), (A, 1), (A, 2)]
    assert values(out) == [1, 2, 3]
    assert tape.batches == [{A: 0}, {A: 1}, {A: 2}]


def test_frames_of_several_calls_are_one_batch(both: tuple[AnyStage, Tape, Audio]) -> None:
    stage, tape, audio = both
    receive(stage, opened(A), opened(B), audio(7, A), audio(5, B))
    assert seqs(stage.work()) == [(A, 7), (B, 5)]
    assert tape.batches == [{A: 7, B: 5}]
    assert stage.due_s() is None


def test_a_batch_waits_a_little_for_the_call_whose_frame_is_about_to_come() -> None:
    for make, audio in ((encoder_of, spoken), (decoder_of, coded)):
        clock = Clock()
        stage: AnyStage = make(Tape(), clock)
        receive(stage, opened(A), opened(B), audio(0, A))
        assert stage.due_s() == 0.0, "of the other call nothing has come yet"
        receive(stage, audio(0, B))
        stage.work()
        clock.now += 0.08
        receive(stage, audio(1, A))
        assert stage.due_s() == clock.now + PATIENCE_S
        receive(stage, audio(1, B))
        assert stage.due_s() == 0.0


def test_every_batch_says_how_long_it_took() -> None:
    class Slow(Tape):
        def _take(self, frames: Mapping[Slot, Row]) -> dict[Slot, Row | CodecError]:
            clock.now += 0.02
            return super()._take(frames)

    for make, audio, name in ((encoder_of, spoken, Stage.ENCODE), (decoder_of, coded, Stage.DECODE)):
        clock = Clock()
        stage: AnyStage = make(Slow(), clock)
        receive(stage, opened(A), opened(B), audio(0, A), audio(0, B))
        for message in stage.work():
            assert isinstance(message, Frame | Codes)
            assert message.spans == (Span(name, 100.0, 100.02),)


def test_frames_of_an_earlier_call_or_of_no_call_are_not_computed(both: tuple[AnyStage, Tape, Audio]) -> None:
    stage, tape, audio = both
    receive(stage, audio(0, epoch=1), opened(epoch=2), audio(1, epoch=1), audio(2, epoch=3))
    assert stage.due_s() is None
    receive(stage, audio(3, epoch=2), closed(epoch=2), audio(4, epoch=2))
    assert stage.due_s() is None
    assert tape.batches == []


def test_open_and_close_pass_by_what_waits(both: tuple[AnyStage, Tape, Audio]) -> None:
    stage, _, audio = both
    receive(stage, opened(A), audio(0, A))
    failed = Failed(A, Epoch(1), Stage.STEP, "why")
    assert [type(message) for message in receive(stage, opened(B), closed(B), failed)] == [Open, Close, Failed]


def test_a_new_call_begins_with_a_codec_that_knows_nothing(both: tuple[AnyStage, Tape, Audio]) -> None:
    stage, tape, audio = both
    receive(stage, opened(epoch=1), audio(0, epoch=1))
    work(stage)
    receive(stage, closed(epoch=1), opened(epoch=2), audio(0, epoch=2))
    assert values(work(stage)) == [1]
    assert tape.done == ["open 0", "close 0", "open 0"]


def test_a_call_that_never_said_goodbye_is_forgotten_when_the_next_one_opens(
    both: tuple[AnyStage, Tape, Audio],
) -> None:
    stage, _, audio = both
    receive(stage, opened(epoch=1), audio(0, epoch=1))
    work(stage)
    receive(stage, audio(1, epoch=1), opened(epoch=2), closed(epoch=1), audio(5, epoch=2))
    out = work(stage)
    assert (seqs(out), values(out)) == ([(A, 5)], [1])


@pytest.mark.parametrize(
    ("value", "reason"),
    [(BROKEN, "this call's audio is broken"), (REFUSED, "nobody takes this")],
    ids=["broken", "refused"],
)
def test_a_failure_ends_one_call_and_no_other(both: tuple[AnyStage, Tape, Audio], value: int, reason: str) -> None:
    stage, tape, audio = both
    name = Stage.ENCODE if isinstance(stage, EncoderStage) else Stage.DECODE
    receive(stage, opened(A), opened(B), audio(0, A, value=value), audio(0, B))
    out = work(stage)
    assert [message for message in out if isinstance(message, Failed)] == [Failed(A, Epoch(1), name, reason)]
    assert seqs(out) == [(B, 0)]
    receive(stage, audio(1, A), audio(1, B))
    assert seqs(work(stage)) == [(B, 1)], "the failed call is over"
    assert tape.done == ["open 0", "open 1", "close 0"], "made good now, so that the next call need not wait for it"
    assert receive(stage, closed(A)) == [closed(A)]
    receive(stage, opened(A, epoch=2), audio(0, A, epoch=2))
    assert values(work(stage)) == [1], "the slot is as good as new"
    assert tape.done == ["open 0", "open 1", "close 0", "open 0"]


# The encoder.


def test_the_encoder_adds_the_silence_of_the_greeting() -> None:
    (out,) = receive(encoder_of(Tape()), opened(greeting_frames=2))
    assert isinstance(out, Open)
    np.testing.assert_array_equal(out.silence, SILENCE[:2])


def test_the_silence_is_that_of_a_fresh_call_and_leaves_the_slot_free() -> None:
    tape = Tape()
    codes = silence_codes(tape, B, 3)
    np.testing.assert_array_equal(codes, np.repeat([[1], [2], [3]], 8, axis=1))
    assert tape.batches == [{B: 0}] * 3
    assert tape.done == ["open 1", "close 1"]
    assert len(silence_codes(tape, B, 0)) == 0


def test_of_a_call_at_most_one_frame_waits_and_the_others_are_counted() -> None:
    stage = encoder_of(Tape())
    receive(stage, opened(), *map(spoken, range(3)), replace(spoken(3), dropped=4))
    (codes,) = work(stage)
    assert isinstance(codes, Codes)
    assert (codes.seq, codes.dropped) == (3, 7)
    receive(stage, spoken(4))
    (codes,) = work(stage)
    assert isinstance(codes, Codes)
    assert (codes.seq, codes.dropped) == (4, 0)


@given(st.lists(st.integers(0, 6), max_size=20))
def test_no_frame_is_lost_uncounted(bursts: list[int]) -> None:
    stage, seq = encoder_of(Tape()), 0
    receive(stage, opened())
    encoded: list[PipelineMessage] = []
    for burst in bursts:
        receive(stage, *(spoken(seq + place) for place in range(burst)))
        seq += burst
        encoded += work(stage)
    assert sum(1 + message.dropped for message in encoded if isinstance(message, Codes)) == seq


# The decoder.


def test_the_decoder_decodes_every_frame_and_in_order() -> None:
    tape = Tape()
    stage = decoder_of(tape)
    receive(stage, opened(A), opened(B))
    receive(stage, coded(0, A), coded(1, A), coded(0, B), coded(2, A), coded(1, B))
    frames = work(stage)
    assert tape.batches == [{A: 0, B: 0}, {A: 1, B: 1}, {A: 2}]
    assert seqs(frames) == [(A, 0), (B, 0), (A, 1), (B, 1), (A, 2)]
    assert values(frames) == [1, 1, 2, 2, 3]


def test_the_decoder_passes_on_what_was_said_and_counted() -> None:
    stage = decoder_of(Tape())
    span = Span(Stage.STEP, 1.0, 2.0)
    receive(stage, opened(), replace(coded(5, text=" hi"), dropped=2, spans=(span,)))
    (frame,) = work(stage)
    assert isinstance(frame, Frame)
    assert (frame.seq, frame.text, frame.dropped) == (5, " hi", 2)
    assert [span.stage for span in frame.spans] == [Stage.STEP, Stage.DECODE]


def test_a_step_without_sound_is_a_frame_without_sound_beside_others_with_it() -> None:
    tape = Tape()
    stage = decoder_of(tape)
    receive(stage, opened(A), opened(B), Codes(A, Epoch(1), 0, None, " well", tokens=b"kept"), coded(0, B))
    silent, other = work(stage)
    assert isinstance(silent, Frame)
    assert (silent.pcm, silent.text, silent.tokens) == (None, " well", b"kept")
    assert seqs([other]) == [(B, 0)]
    assert tape.batches == [{B: 0}]


def test_the_decoders_backlog_is_bounded_and_loses_the_oldest() -> None:
    stage = decoder_of(Tape())
    receive(stage, opened(), *map(coded, range(DECODE_BACKLOG + 5)))
    assert seqs(work(stage)) == [(A, seq) for seq in range(5, DECODE_BACKLOG + 5)]


def test_a_whole_greeting_may_wait_to_be_decoded() -> None:
    longest = 125
    stage = DecoderStage(Tape(), greeting_frames=longest)
    receive(stage, opened(), *map(coded, range(longest + DECODE_BACKLOG)))
    assert seqs(work(stage)) == [(A, seq) for seq in range(longest + DECODE_BACKLOG)]


# The doors.


STORIES = st.lists(
    st.one_of(
        st.builds(opened, st.sampled_from([A, B]), st.integers(1, 3)),
        st.builds(closed, st.sampled_from([A, B]), st.integers(1, 3)),
        st.builds(
            coded, st.integers(0, 9), st.sampled_from([A, B]), st.integers(1, 3), st.sampled_from([1, BROKEN, REFUSED])
        ),
        st.just("work"),
    ),
    max_size=40,
)


@given(STORIES)
def test_whatever_happens_audio_comes_out_only_for_the_call_that_is_on(story: list[PipelineMessage | str]) -> None:
    tape = Tape()
    stage = decoder_of(tape)
    on: dict[Slot, Epoch] = {}
    for deed in story:
        out = stage.work() if deed == "work" and stage.due_s() is not None else []
        assert all(on.get(message.slot) == message.epoch for message in out)
        for message in out:
            if isinstance(message, Failed):
                del on[message.slot]
        if isinstance(deed, str):
            continue
        assert stage.receive(deed) == ([] if isinstance(deed, Codes) else [deed])
        if isinstance(deed, Open):
            on[deed.slot] = deed.epoch
        elif isinstance(deed, Close) and on.get(deed.slot) == deed.epoch:
            del on[deed.slot]
    assert tape.counts.keys() == on.keys()
