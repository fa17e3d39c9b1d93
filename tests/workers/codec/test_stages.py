from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.codec.codec import CodecError, Row
from workers.codec.stages import DECODE_BACKLOG, PATIENCE_S, CodecStage, DecoderStage, EncoderStage, Onward
from workers.messages import (
    CallPersona,
    Close,
    Codes,
    DropPrompt,
    Epoch,
    Failed,
    Frame,
    Message,
    Open,
    PreparePrompt,
    PromptReady,
    PromptRefused,
    Said,
    Say,
    Slot,
    Span,
    Speech,
    SpeechEnded,
    Stage,
)

A, B, SPARE = map(Slot, range(3))
SILENCE = np.arange(24, dtype=np.int32).reshape(3, 8)
BROKEN = -1


@dataclass
class FakeCodec:
    """Answers every frame with its number since the call was opened; a batch takes `batch_s` on its own clock."""

    batches: list[dict[Slot, int]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    counts: dict[Slot, int] = field(default_factory=dict)
    now: float = 100.0
    batch_s: float = 0.0
    codebooks: int = 8
    reports: list[tuple[str, int, int]] = field(default_factory=list)

    def report(self, *progress: Any) -> None:
        self.reports.append(progress)

    def clock(self) -> float:
        return self.now

    def open(self, slot: Slot) -> None:
        self.done.append(f"open {slot}")
        self.counts[slot] = 0

    def close(self, slot: Slot) -> None:
        self.done.append(f"close {slot}")
        del self.counts[slot]

    def run(self, frames: Mapping[Slot, Row]) -> dict[Slot, Row | CodecError]:
        assert frames.keys() <= self.counts.keys(), "a call that is not open"
        self.now += self.batch_s
        if frames:
            self.batches.append({slot: int(frame[0]) for slot, frame in frames.items()})
        return {slot: self._next(slot, frame) for slot, frame in frames.items()}

    def _next(self, slot: Slot, frame: Row) -> Row | CodecError:
        if frame[0] == BROKEN:
            return CodecError("this call's audio is broken")
        self.counts[slot] += 1
        return np.full(self.codebooks, self.counts[slot])


def spoken(seq: int, slot: Slot = A, epoch: int = 1, value: int | None = None) -> Frame:
    return Frame(slot, Epoch(epoch), seq, np.full(1_920, seq if value is None else value, np.float32))


def coded(seq: int, slot: Slot = A, epoch: int = 1, value: int | None = None) -> Codes:
    return Codes(slot, Epoch(epoch), seq, np.full(8, seq if value is None else value, np.int32))


def opened(slot: Slot = A, epoch: int = 1, greeting_frames: int = 0) -> Open:
    return Open(slot, Epoch(epoch), greeting_frames)


def closed(slot: Slot = A, epoch: int = 1) -> Close:
    return Close(slot, Epoch(epoch))


Audio = Callable[..., Frame | Codes]
Both = tuple[CodecStage, FakeCodec, Audio]


def encoder() -> tuple[EncoderStage, FakeCodec]:
    codec = FakeCodec()
    return EncoderStage(codec, SILENCE, SPARE, codec.clock, codec.report), codec


def decoder(greeting_frames: int = 0) -> tuple[DecoderStage, FakeCodec]:
    codec = FakeCodec()
    return DecoderStage(codec, greeting_frames, codec.clock, codec.report), codec


@pytest.fixture(params=[Stage.ENCODE, Stage.DECODE])
def both(request: pytest.FixtureRequest) -> Both:
    """An encoder's or a decoder's stage, its codec and its kind of audio."""
    return (*encoder(), spoken) if request.param is Stage.ENCODE else (*decoder(), coded)


def receive(stage: CodecStage, *messages: Message) -> list[Onward]:
    return [out for message in messages for out in stage.receive(message)]


def work(stage: CodecStage) -> list[Onward]:
    """Work until nothing is left to do."""
    done: list[Onward] = []
    while stage.due_s() is not None:
        done += stage.work()
    return done


def seqs(messages: Sequence[Onward]) -> list[tuple[Slot, int]]:
    return [(message.slot, message.seq) for message in messages if isinstance(message, Frame | Codes)]


def values(messages: Sequence[Onward]) -> list[int]:
    """What the codec answered, message by message."""
    answers = [m.codes if isinstance(m, Codes) else m.pcm for m in messages if isinstance(m, Frame | Codes)]
    return [int(answer[0]) for answer in answers if answer is not None]


# Both directions.


def test_frames_of_several_calls_are_one_batch_in_which_each_call_has_one(both: Both) -> None:
    stage, codec, audio = both
    receive(stage, opened(A), opened(B), audio(7, A), audio(5, B))
    out = work(stage)
    receive(stage, audio(8, A))
    out += work(stage)
    assert seqs(out) == [(A, 7), (B, 5), (A, 8)]
    assert values(out) == [1, 1, 2]
    assert codec.batches == [{A: 7, B: 5}, {A: 8}]


def test_a_batch_waits_a_little_for_the_call_whose_frame_is_about_to_come(both: Both) -> None:
    stage, codec, audio = both
    receive(stage, opened(A), opened(B), audio(0, A))
    assert stage.due_s() == 0.0, "of the other call nothing has come yet"
    receive(stage, audio(0, B))
    stage.work()
    codec.now += 0.08
    receive(stage, audio(1, A))
    assert stage.due_s() == codec.now + PATIENCE_S
    receive(stage, audio(1, B))
    assert stage.due_s() == 0.0


def test_what_comes_with_a_frame_goes_on_with_the_time_that_its_batch_took(both: Both) -> None:
    stage, codec, audio = both
    before, codec.batch_s = Span(Stage.STEP, 1.0, 2.0), 0.02
    more = replace(audio(0, B), text=" hi", dropped=2, spans=(before,), tokens=b"17")
    receive(stage, opened(A), opened(B), audio(0, A), more)
    first, second = stage.work()
    assert isinstance(first, Frame | Codes)
    assert isinstance(second, Frame | Codes)
    assert first.spans == (Span(stage.stage, 100.0, 100.02),)
    assert (second.text, second.dropped, second.tokens) == (" hi", 2, b"17")
    assert second.spans == (before, *first.spans)


def test_open_and_close_pass_by_what_waits(both: Both) -> None:
    stage, _, audio = both
    receive(stage, opened(A), audio(0, A))
    failed = Failed(A, Epoch(1), Stage.STEP, "why")
    assert [type(message) for message in receive(stage, opened(B), closed(B), failed)] == [Open, Close, Failed]


def test_a_failure_ends_one_call_and_no_other(both: Both) -> None:
    stage, codec, audio = both
    receive(stage, opened(A), opened(B), audio(0, A, value=BROKEN), audio(0, B))
    failed, other = work(stage)
    assert failed == Failed(A, Epoch(1), stage.stage, "this call's audio is broken")
    receive(stage, audio(1, A), audio(1, B))
    assert seqs([other, *work(stage)]) == [(B, 0), (B, 1)], "the failed call is over"
    assert codec.done == ["open 0", "open 1", "close 0"], "made good now, so that the next call need not wait for it"
    assert receive(stage, closed(A)) == [closed(A)]
    receive(stage, opened(A, epoch=2), audio(0, A, epoch=2))
    assert values(work(stage)) == [1], "the slot is as good as new"
    assert codec.done == ["open 0", "open 1", "close 0", "open 0"]


# The encoder.


@pytest.mark.parametrize(("greeting_frames", "words", "silent"), [(2, "", 2), (0, "hello", 3), (2, "hello", 3)])
def test_the_encoder_adds_the_silence_of_a_greeting_and_all_it_has_of_one_in_words(
    greeting_frames: int, words: str, silent: int
) -> None:
    (out,) = receive(encoder()[0], replace(opened(greeting_frames=greeting_frames), persona=CallPersona(words)))
    assert isinstance(out, Open)
    np.testing.assert_array_equal(out.silence, SILENCE[:silent])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=20))
def test_of_a_call_the_newest_frame_waits_and_the_others_are_counted(bursts: list[tuple[int, int]]) -> None:
    """In each burst so many frames come; the app has dropped some before the last of them."""
    (stage, _), seq = encoder(), 0
    receive(stage, opened())
    for frames, dropped in bursts:
        receive(stage, *(spoken(seq + n) for n in range(frames)), replace(spoken(seq + frames), dropped=dropped))
        seq += frames + 1
        (codes,) = work(stage)
        assert isinstance(codes, Codes)
        assert (codes.seq, codes.dropped) == (seq - 1, frames + dropped)


VOICE = np.arange(3, dtype=np.float32)[:, None].repeat(1_920, 1)


def prepare(key: str = "ada", pcm: Row = VOICE) -> PreparePrompt:
    return PreparePrompt(key, "Be kind.", pcm=pcm)


def test_a_voice_is_encoded_at_once_while_no_call_is_on() -> None:
    stage, codec = encoder()
    receive(stage, prepare())
    (out,) = work(stage)
    assert isinstance(out, PreparePrompt)
    assert (out.key, out.text, out.pcm) == ("ada", "Be kind.", None)
    np.testing.assert_array_equal(out.codes, np.arange(1, 4)[:, None].repeat(8, 1))
    assert codec.done == [f"open {SPARE}", f"close {SPARE}"]


def test_while_calls_are_on_one_frame_of_a_voice_is_encoded_after_each_batch() -> None:
    stage, codec = encoder()
    receive(stage, opened(A), opened(B), prepare())
    for seq in range(7, 10):
        receive(stage, spoken(seq, A), spoken(seq, B))
        assert seqs(stage.work()) == [(A, seq), (B, seq)], "the callers' frames go on first"
        work(stage)
    assert codec.batches == [batch for n in range(3) for batch in ({A: 7 + n, B: 7 + n}, {SPARE: n})]


def test_an_encoder_of_32_codes_sends_eight_to_the_engine_and_all_to_the_transcriber() -> None:
    codec = FakeCodec(codebooks=32)
    stage = EncoderStage(codec, np.arange(96, dtype=np.int32).reshape(3, 32), SPARE, codec.clock)
    (begun,) = receive(stage, opened(greeting_frames=2))
    assert isinstance(begun, Open)
    assert begun.silence is not None
    assert begun.silence.tolist() == [list(range(8)), list(range(32, 40))]
    receive(stage, spoken(25))
    codes, speech = work(stage)
    assert isinstance(codes, Codes)
    assert isinstance(speech, Speech)
    assert codes.codes is not None
    assert (codes.seq, codes.codes.shape) == (25, (8,))
    assert (speech.slot, speech.epoch, speech.seq, speech.codes.shape) == (A, 1, 25, (32,))
    assert receive(stage, closed()) == [SpeechEnded(A, Epoch(1)), closed()]
    receive(stage, opened(epoch=2), spoken(0, epoch=2, value=BROKEN))
    assert [type(message) for message in work(stage)] == [Failed]
    receive(stage, prepare())
    (voice,) = work(stage)
    assert isinstance(voice, PreparePrompt)
    assert voice.codes is not None
    assert voice.codes.shape == (3, 8)


def test_voices_wait_for_each_other_and_are_dropped() -> None:
    stage, codec = encoder()
    receive(stage, *map(prepare, ("ada", "ben", "eve", "joe")))
    stage.work()
    dropped = receive(stage, DropPrompt("ada"), DropPrompt("eve"))
    done = work(stage)
    assert dropped == [DropPrompt("ada"), DropPrompt("eve")]
    assert [message.key for message in done if isinstance(message, PreparePrompt)] == ["ben", "joe"]
    assert codec.counts == {}


@pytest.mark.parametrize("pcm", [VOICE[:0], VOICE[0], VOICE[:, :100], np.full_like(VOICE, BROKEN)])
def test_a_recording_that_cannot_be_encoded_is_refused_and_touches_no_call(pcm: Row) -> None:
    stage, _ = encoder()
    out = [*receive(stage, prepare(pcm=pcm), prepare("ben")), *work(stage)]
    assert [(type(message), getattr(message, "key", "")) for message in out] == [
        (PromptRefused, "ada"),
        (PreparePrompt, "ben"),
    ]


def test_a_prompt_without_a_recording_and_answers_pass(both: Both) -> None:
    messages: list[Message] = [
        PreparePrompt("ada", "Be kind.", "NATF0"),
        PromptReady("ada", 250, 1),
        PromptRefused("ada", "why"),
    ]
    assert receive(both[0], *messages) == messages


# The decoder.


def test_the_decoder_decodes_every_frame_and_in_order() -> None:
    stage, codec = decoder()
    receive(stage, opened(A), opened(B))
    receive(stage, coded(0, A), coded(1, A), coded(0, B), coded(2, A), coded(1, B))
    frames = work(stage)
    assert codec.batches == [{A: 0, B: 0}, {A: 1, B: 1}, {A: 2}]
    assert seqs(frames) == [(A, 0), (B, 0), (A, 1), (B, 1), (A, 2)]
    assert values(frames) == [1, 1, 2, 2, 3]


def test_a_step_without_sound_is_a_frame_without_sound_beside_others_with_it() -> None:
    stage, codec = decoder()
    receive(stage, opened(A), opened(B), Codes(A, Epoch(1), 0, None, " well", tokens=b"kept"), coded(0, B))
    silent, other = work(stage)
    assert isinstance(silent, Frame)
    assert (silent.pcm, silent.text, silent.tokens) == (None, " well", b"kept")
    assert seqs([other]) == [(B, 0)]
    assert codec.batches == [{B: 0}]


@pytest.mark.parametrize("greeting_frames", [0, 125])
def test_the_decoders_backlog_is_a_greeting_and_then_loses_the_oldest(greeting_frames: int) -> None:
    stage, _ = decoder(greeting_frames)
    count = greeting_frames + DECODE_BACKLOG + 5
    receive(stage, opened(), *map(coded, range(count)))
    assert seqs(work(stage)) == [(A, seq) for seq in range(5, count)]


def said(slot: Slot = A, epoch: int = 1, sentence: int = 0) -> Said:
    return Said(slot, Epoch(epoch), sentence, whole=True)


def test_what_is_to_be_said_and_has_been_said_passes_both_stages(both: Both) -> None:
    stage, _, _ = both
    say = Say(A, Epoch(1), 1, "hello")
    assert receive(stage, opened(), say, said())[1:] == [say, said()]


def test_what_has_been_said_comes_behind_the_frame_with_its_last_word() -> None:
    stage, _ = decoder()
    receive(stage, opened(A), opened(B))
    assert receive(stage, coded(0, A), coded(1, A), said(A), coded(2, A), said(A, sentence=1), said(B)) == [said(B)]
    kinds = [getattr(message, "seq", None) for message in work(stage)]
    assert kinds == [0, 1, None, 2, None]


def test_what_a_call_said_that_is_over_is_not_passed_on() -> None:
    stage, _ = decoder()
    receive(stage, opened(A), opened(B), coded(0, A), said(A), opened(A, epoch=2), coded(0, A, epoch=2), coded(0, B))
    receive(stage, said(B), closed(B))
    (frame,) = work(stage)
    assert seqs([frame]) == [(A, 0)]


SLOTS, EPOCHS = st.sampled_from([A, B]), st.integers(1, 3)
STORIES = st.lists(
    st.one_of(
        st.builds(opened, SLOTS, EPOCHS),
        st.builds(closed, SLOTS, EPOCHS),
        st.tuples(st.integers(0, 9), SLOTS, EPOCHS, st.sampled_from([1, BROKEN])),
        st.none(),
    ),
    max_size=40,
)


@pytest.mark.parametrize("make", [encoder, decoder])
@given(story=STORIES)
def test_whatever_happens_audio_comes_out_only_for_the_call_that_is_on_and_from_its_beginning(
    make: Callable[[], tuple[CodecStage, FakeCodec]], story: list[Open | Close | tuple[int, Slot, int, int] | None]
) -> None:
    """At None the stage works. A call may begin while another is on in its slot, or end late."""
    stage, codec = make()
    on: dict[Slot, tuple[Epoch, int]] = {}
    for event in story:
        if event is None:
            for out in work(stage):
                assert isinstance(out, Frame | Codes | Failed)
                epoch, count = on[out.slot]
                assert out.epoch == epoch
                if isinstance(out, Failed):
                    del on[out.slot]
                else:
                    assert values([out]) == [count + 1]
                    on[out.slot] = epoch, count + 1
        elif isinstance(event, tuple):
            audio = spoken if stage.stage is Stage.ENCODE else coded
            assert stage.receive(audio(*event)) == []
        else:
            (passed,) = stage.receive(event)
            assert type(passed) is type(event)
            if isinstance(event, Open):
                on[event.slot] = event.epoch, 0
            elif event.slot in on and on[event.slot][0] == event.epoch:
                del on[event.slot]
        assert codec.counts.keys() == on.keys()
