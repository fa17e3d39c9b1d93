from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.test_loop import CONFIG
from workers.codec.door import open_decoder, open_encoder
from workers.codec.error import CodecError
from workers.codec.loopback import LoopbackCodec
from workers.codec.stations import DECODE_BACKLOG, DecoderStation, EncoderStation, silence_codes
from workers.loop import Station
from workers.messages import (
    Close,
    Codes,
    Epoch,
    Failed,
    Frame,
    Open,
    Payload,
    Pcm,
    RingMessage,
    Slot,
    Span,
    Stage,
)

A, B = Slot(0), Slot(1)
SILENCE = np.arange(24, dtype=np.int32).reshape(3, 8)
BROKEN = np.float32(-1)
Audio = Callable[[int, int], Frame | Codes]


class Tape:
    """A codec that answers every frame with its number since the last reset, and notes all that is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._count = 0

    def encode(self, pcm: Pcm) -> Payload:
        return self._next(pcm)

    def decode(self, codes: Payload) -> Pcm:
        return self._next(codes).astype(np.float32)

    def reset(self) -> None:
        self.done.append("reset")
        self._count = 0

    def _next(self, frame: Payload) -> Payload:
        if frame[0] == BROKEN:
            self.done.append("failed")
            raise CodecError("this call's audio is broken")
        self._count += 1
        self.done.append(f"frame {frame[0]:g}")
        return np.full(8, self._count, np.int32)


def pcm(value: float) -> Pcm:
    return np.full(1_920, value, np.float32)


def spoken(seq: int, slot: Slot = A, epoch: int = 1, value: float | None = None) -> Frame:
    return Frame(slot, Epoch(epoch), seq, pcm(seq if value is None else value))


def coded(seq: int, slot: Slot = A, epoch: int = 1, value: float | None = None, text: str = "") -> Codes:
    codes = np.full(8, seq if value is None else value, np.float32)
    return Codes(slot, Epoch(epoch), seq, codes, text)


def opened(slot: Slot = A, epoch: int = 1, greeting_frames: int = 0) -> Open:
    return Open(slot, Epoch(epoch), greeting_frames)


def closed(slot: Slot = A, epoch: int = 1) -> Close:
    return Close(slot, Epoch(epoch))


def encoder_of(*tapes: Tape) -> EncoderStation:
    return EncoderStation({Slot(slot): tape for slot, tape in enumerate(tapes)}, SILENCE)


def decoder_of(*tapes: Tape) -> DecoderStation:
    return DecoderStation({Slot(slot): tape for slot, tape in enumerate(tapes)})


def receive(station: Station, *messages: RingMessage) -> list[RingMessage]:
    return [out for message in messages for out in station.receive(message)]


def work(station: Station) -> list[RingMessage]:
    """Work until nothing is left to do."""
    done: list[RingMessage] = []
    while station.busy:
        done += station.work()
    return done


def seqs(messages: list[RingMessage]) -> list[tuple[Slot, int]]:
    return [(message.slot, message.seq) for message in messages if isinstance(message, Frame | Codes)]


def values(messages: list[RingMessage]) -> list[float]:
    """What the codec answered, message by message."""
    answers = [m.codes if isinstance(m, Codes) else m.pcm for m in messages if isinstance(m, Frame | Codes)]
    return [float(answer[0]) for answer in answers if answer is not None]


def test_a_call_is_encoded_frame_by_frame() -> None:
    tape = Tape()
    station = encoder_of(tape)
    receive(station, opened())
    codes = [message for seq in range(3) for message in (*receive(station, spoken(seq)), *work(station))]
    assert seqs(codes) == [(A, 0), (A, 1), (A, 2)]
    assert values(codes) == [1, 2, 3]
    assert tape.done == ["frame 0", "frame 1", "frame 2"]


def test_the_encoder_adds_the_silence_of_the_greeting() -> None:
    (out,) = receive(encoder_of(Tape()), opened(greeting_frames=2))
    assert isinstance(out, Open)
    np.testing.assert_array_equal(out.silence, SILENCE[:2])


def test_the_silence_is_that_of_a_fresh_call_and_leaves_the_encoder_fresh() -> None:
    tape = Tape()
    codes = silence_codes(tape, 3)
    np.testing.assert_array_equal(codes, np.repeat([[1], [2], [3]], 8, axis=1))
    assert tape.done[-1] == "reset"
    assert len(silence_codes(tape, 0)) == 0


def test_of_a_call_at_most_one_frame_waits_and_the_others_are_counted() -> None:
    station = encoder_of(Tape())
    receive(station, opened(), *map(spoken, range(4)))
    (codes,) = work(station)
    assert isinstance(codes, Codes)
    assert (codes.seq, codes.dropped) == (3, 3)
    receive(station, spoken(4))
    (codes,) = work(station)
    assert isinstance(codes, Codes)
    assert (codes.seq, codes.dropped) == (4, 0)


@given(st.lists(st.integers(0, 6), max_size=20))
def test_no_frame_is_lost_uncounted(bursts: list[int]) -> None:
    station, seq = encoder_of(Tape()), 0
    receive(station, opened())
    encoded: list[RingMessage] = []
    for burst in bursts:
        receive(station, *(spoken(seq + place) for place in range(burst)))
        seq += burst
        encoded += work(station)
    assert sum(1 + message.dropped for message in encoded if isinstance(message, Codes)) == seq


def test_calls_wait_each_for_itself_and_the_one_that_waited_longest_goes_first() -> None:
    station = encoder_of(Tape(), Tape())
    receive(station, opened(A), opened(B), spoken(0, A), spoken(0, B), spoken(1, A))
    assert seqs(work(station)) == [(A, 1), (B, 0)]


def test_frames_of_an_earlier_call_or_of_no_call_are_not_encoded() -> None:
    tape = Tape()
    station = encoder_of(tape)
    receive(station, spoken(0, epoch=1), opened(epoch=2), spoken(1, epoch=1), spoken(2, epoch=3))
    assert not station.busy
    receive(station, spoken(3, epoch=2), closed(epoch=2), spoken(4, epoch=2))
    assert not station.busy
    assert tape.done == []


def test_open_and_close_pass_by_what_waits() -> None:
    station = encoder_of(Tape(), Tape())
    receive(station, opened(A), spoken(0, A))
    assert [type(message) for message in receive(station, opened(B), closed(B))] == [Open, Close]


def test_a_new_call_begins_with_a_codec_that_knows_nothing() -> None:
    for station, tape, audio in both():
        receive(station, opened(epoch=1), audio(0, 1))
        work(station)
        receive(station, closed(epoch=1), opened(epoch=2), audio(0, 2))
        assert values(work(station)) == [1]
        assert tape.done == ["frame 0", "reset", "frame 0"]


def test_a_call_that_never_said_goodbye_is_forgotten_when_the_next_one_opens() -> None:
    for station, tape, audio in both():
        receive(station, opened(epoch=1), audio(0, 1))
        work(station)
        receive(station, audio(1, 1), opened(epoch=2), audio(0, 2))
        assert values(work(station)) == [1]
        assert tape.done == ["frame 0", "reset", "frame 0"]


def test_a_codec_that_was_not_used_is_not_reset() -> None:
    for station, tape, _ in both():
        receive(station, opened(epoch=1), closed(epoch=1), opened(epoch=2), closed(epoch=2))
        assert tape.done == []


def test_the_late_end_of_an_earlier_call_does_not_end_this_one() -> None:
    for station, _, audio in both():
        receive(station, opened(epoch=1), opened(epoch=2), closed(epoch=1), audio(0, 2))
        assert values(work(station)) == [1]


def test_a_failure_ends_one_call_and_no_other() -> None:
    for station, audio, stage in (
        (encoder_of(Tape(), Tape()), spoken, Stage.ENCODE),
        (decoder_of(Tape(), Tape()), coded, Stage.DECODE),
    ):
        receive(station, opened(A), opened(B), audio(0, A, value=-1), audio(0, B))
        failed, other = work(station)
        assert failed == Failed(A, Epoch(1), stage, "this call's audio is broken")
        assert seqs([other]) == [(B, 0)]
        receive(station, audio(1, A), audio(1, B))
        assert seqs(work(station)) == [(B, 1)], "the failed call is over"
        assert receive(station, closed(A), opened(A, epoch=2)) != []
        receive(station, audio(0, A, epoch=2))
        assert values(work(station)) == [1], "the slot is as good as new"


def test_a_codec_that_failed_is_made_good_when_its_call_ends_so_that_the_next_one_need_not_wait() -> None:
    for station, tape, audio in both():
        receive(station, opened(), replace_audio(audio(0, 1)))
        work(station)
        receive(station, closed())
        assert tape.done == ["failed", "reset"]


def replace_audio(message: Frame | Codes) -> Frame | Codes:
    """The same message with audio that the codec cannot take."""
    return replace(message, pcm=pcm(-1)) if isinstance(message, Frame) else replace(message, codes=pcm(-1)[:8])


def both() -> list[tuple[Station, Tape, Audio]]:
    """An encoder and a decoder, each with the tape it runs on and its kind of audio: (seq, epoch) to message."""
    tapes = Tape(), Tape()
    return [
        (encoder_of(tapes[0]), tapes[0], lambda seq, epoch: spoken(seq, epoch=epoch)),
        (decoder_of(tapes[1]), tapes[1], lambda seq, epoch: coded(seq, epoch=epoch)),
    ]


def test_the_decoder_decodes_every_frame_and_in_order() -> None:
    station = decoder_of(Tape(), Tape())
    receive(station, opened(A), opened(B))
    receive(station, coded(0, A), coded(1, A), coded(0, B), coded(2, A), coded(1, B))
    frames = work(station)
    assert seqs(frames) == [(A, 0), (A, 1), (B, 0), (A, 2), (B, 1)]
    assert values(frames) == [1, 2, 1, 3, 2]


def test_the_decoder_passes_on_what_was_said_and_counted() -> None:
    station = decoder_of(Tape())
    span = Span(Stage.STEP, 1.0, 2.0)
    receive(station, opened(), replace(coded(5, text=" hi"), dropped=2, spans=(span,)))
    (frame,) = work(station)
    assert isinstance(frame, Frame)
    assert (frame.seq, frame.text, frame.dropped) == (5, " hi", 2)
    assert [span.stage for span in frame.spans] == [Stage.STEP, Stage.DECODE]


def test_a_step_without_sound_is_a_frame_without_sound() -> None:
    tape = Tape()
    station = decoder_of(tape)
    receive(station, opened(), Codes(A, Epoch(1), 0, None, " well"))
    (frame,) = work(station)
    assert isinstance(frame, Frame)
    assert (frame.pcm, frame.text) == (None, " well")
    assert tape.done == []


def test_audio_of_a_call_that_is_over_is_not_decoded() -> None:
    tape = Tape()
    station = decoder_of(tape)
    receive(station, opened(epoch=1), coded(0, epoch=1), coded(1, epoch=1), closed(epoch=1), opened(epoch=2))
    assert work(station) == []
    assert tape.done == []


def test_the_decoders_backlog_is_bounded_and_loses_the_oldest() -> None:
    station = decoder_of(Tape())
    receive(station, opened(), *map(coded, range(DECODE_BACKLOG + 5)))
    assert seqs(work(station)) == [(A, seq) for seq in range(5, DECODE_BACKLOG + 5)]


def test_the_loopback_codec_gives_back_what_it_got() -> None:
    assert isinstance(open_encoder(CONFIG), LoopbackCodec)
    assert isinstance(open_decoder(CONFIG), LoopbackCodec)
    frame = np.random.default_rng(1).standard_normal(1_920).astype(np.float32)
    codec = LoopbackCodec()
    codec.reset()
    np.testing.assert_array_equal(codec.decode(codec.encode(frame)), frame)


STORIES = st.lists(
    st.one_of(
        st.builds(opened, st.sampled_from([A, B]), st.integers(1, 3)),
        st.builds(closed, st.sampled_from([A, B]), st.integers(1, 3)),
        st.builds(coded, st.integers(0, 9), st.sampled_from([A, B]), st.integers(1, 3)),
        st.just("work"),
    ),
    max_size=40,
)


@given(STORIES)
def test_whatever_happens_audio_comes_out_only_for_the_call_that_is_on(story: list[RingMessage | str]) -> None:
    station = decoder_of(Tape(), Tape())
    on: dict[Slot, Epoch] = {}
    for deed in story:
        out = station.work() if deed == "work" and station.busy else []
        assert all(on.get(message.slot) == message.epoch for message in out)
        if isinstance(deed, str):
            continue
        assert station.receive(deed) == ([] if isinstance(deed, Codes) else [deed])
        if isinstance(deed, Open):
            on[deed.slot] = deed.epoch
        elif isinstance(deed, Close) and on.get(deed.slot) == deed.epoch:
            del on[deed.slot]
