"""Calls that come back: encoder and decoder run through their past, and go on as if nothing had been."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workers.codec.conftest import SLOTS, STAGES
from tests.workers.codec.sounds import codes, snr_db, sound
from tests.workers.codec.test_stages import (
    BROKEN,
    SILENCE,
    A,
    B,
    Both,
    FakeCodec,
    both,
    closed,
    coded,
    decoder,
    encoder,
    opened,
    prepare,
    receive,
    seqs,
    spoken,
    values,
    work,
)
from tests.workers.config import LOOPBACK
from workers.codec.choose import open_codec
from workers.codec.codec import LoopbackCodec, Row
from workers.codec.replay import REPLAY_S
from workers.codec.stages import FULL_SCALE, CodecStage, DecoderStage, EncoderStage, Onward
from workers.messages import (
    FRAME_SAMPLES,
    GAP_FRAMES,
    Codes,
    Epoch,
    Failed,
    Frame,
    Message,
    PreparePrompt,
    Resume,
    Resumed,
    Slot,
    Stage,
)

__all__ = ["both"]
ONE = Epoch(1)
SPARE = Slot(2)


def pcm(*numbers: int) -> Any:
    """Frames whose samples are a number each, after the codec has made floats of them."""
    return np.repeat(np.array(numbers, np.int16)[:, None], FRAME_SAMPLES, 1)


def rows(*numbers: int) -> Row:
    return np.repeat(np.array(numbers, np.int32)[:, None], 8, 1)


def comes_back(slot: Slot = A, heard: Any = None, gap: Any = None, own: Any = None, epoch: int = 1) -> Resume:
    return Resume(slot, Epoch(epoch), b"log", 500, 9.0, heard=heard, gap=gap, own_codes=own)


def past(audio: Callable[..., Frame | Codes], slot: Slot, frames: int, epoch: int = 1) -> Resume:
    """A call whose encoder or decoder, as `audio` says, has a past."""
    if audio is coded:
        return comes_back(slot, own=rows(*range(frames)), epoch=epoch)
    return comes_back(slot, heard=pcm(*range(frames)), epoch=epoch)


def test_the_caller_s_past_is_replayed_and_what_they_said_since_goes_on_as_codes() -> None:
    stage, codec = encoder()
    (passed,) = receive(stage, comes_back(A, pcm(1, 2, 3), pcm(4, 5)))
    assert passed == comes_back(A), "at once, so that the engine prefills meanwhile"
    out = work(stage)
    assert (seqs(out), values(out)) == ([(A, 500), (A, 501)], [4, 5])
    assert out[-1] == Resumed(A, ONE, 3, 0)
    assert codec.done == ["open 0"]
    receive(stage, spoken(502))
    assert values(work(stage)) == [6]


def test_what_the_caller_says_while_their_past_is_replayed_is_heard_too() -> None:
    """Then the newest frame alone waits again."""
    stage, _ = encoder()
    last = 501 + GAP_FRAMES
    receive(stage, comes_back(A, pcm(1, 2, 3), pcm(4)), *map(spoken, range(501, last + 1)))
    out = work(stage)
    assert seqs(out) == [(A, seq) for seq in range(500, last + 1)]
    assert out[1] == Resumed(A, ONE, 3, 0), "nobody waits for what follows"
    receive(stage, *map(spoken, (600, 601, 602)))
    assert seqs(work(stage)) == [(A, 602)]


def test_an_encoder_that_does_not_catch_up_goes_on_with_the_newest_frame() -> None:
    stage, _ = encoder()
    receive(stage, comes_back(A, pcm(1)), *map(spoken, range(501, 501 + GAP_FRAMES + 2)))
    newest = [message for message in work(stage) if isinstance(message, Codes)]
    assert [(codes.seq, codes.dropped) for codes in newest] == [(502 + GAP_FRAMES, GAP_FRAMES + 1)]


def test_without_a_past_the_encoder_begins_anew_and_hears_the_gap() -> None:
    stage, codec = encoder()
    assert receive(stage, comes_back(A))[1:] == [Resumed(A, ONE, 0, 0)]
    assert stage.due_s() is None
    receive(stage, comes_back(B, gap=pcm(7)))
    out = work(stage)
    assert (seqs(out), out[-1]) == ([(B, 500)], Resumed(B, ONE, 0, 0))
    assert codec.counts == {A: 0, B: 1}


def test_samples_come_back_as_they_were() -> None:
    heard = np.array([-32_767, -1, 0, 1, 16_000, 32_767], np.int16)
    taken: list[Row] = []

    class Listener(LoopbackCodec):
        def run(self, frames: Any) -> Any:
            taken.extend(frames.values())
            return frames

    stage = EncoderStage(Listener(), SILENCE, SPARE)
    stage.receive(comes_back(heard=np.resize(heard, (1, FRAME_SAMPLES))))
    stage.work()
    assert taken[0].dtype == np.float32
    assert (taken[0][:6] * FULL_SCALE).round().tolist() == heard.tolist()
    assert abs(taken[0]).max() == 1.0


def test_the_decoder_throws_its_past_away_and_then_says_that_the_call_is_back() -> None:
    stage, codec = decoder()
    back = Resumed(A, ONE, 3_000, 0)
    assert receive(stage, comes_back(A, own=rows(1, 2, 3)), back, coded(9)) == [comes_back(A)]
    first, frame = work(stage)
    assert first == back
    assert (seqs([frame]), values([frame])) == ([(A, 9)], [4])
    assert receive(stage, comes_back(B), Resumed(B, ONE, 0, 0)) == [comes_back(B), Resumed(B, ONE, 0, 0)]
    assert codec.counts == {A: 4, B: 0}


def test_calls_that_come_back_share_batches_and_frames_of_live_calls_go_first(both: Both) -> None:
    stage, codec, audio = both
    receive(stage, opened(SPARE), past(audio, A, 3), past(audio, B, 2))
    out = stage.work()
    receive(stage, audio(50, SPARE))
    out += stage.work()
    assert seqs(out) == [(SPARE, 50)]
    work(stage)
    assert [sorted(batch) for batch in codec.batches] == [[A, B], [SPARE], [A, B], [A]]


def test_frames_of_live_calls_that_never_cease_delay_no_call_that_comes_back_for_long(both: Both) -> None:
    stage, codec, audio = both
    codec.batch_s, began_s, out = 0.1, codec.now, list[Onward]()
    receive(stage, opened(B), past(audio, A, 1_000), Resumed(A, ONE, 1, 0))
    while not any(isinstance(message, Resumed) and message.slot == A for message in out):
        receive(stage, audio(len(codec.batches), B))
        out += stage.work()
    assert codec.now - began_s < 3 * REPLAY_S


@pytest.mark.parametrize("calls", [(A,), (A, B)])
def test_the_past_begins_so_late_that_it_is_replayed_in_time(both: Both, calls: tuple[Slot, ...]) -> None:
    stage, codec, audio = both
    began_s, codec.batch_s = codec.now, 0.010
    receive(stage, *(past(audio, slot, 1_000) for slot in calls))
    work(stage)
    assert 0.9 * REPLAY_S < codec.now - began_s < 1.3 * REPLAY_S
    for slot in calls:
        assert 85 <= codec.counts[slot] <= 110


@pytest.mark.parametrize("kind", STAGES)
def test_each_batch_of_a_replay_is_reported_for_it_takes_as_long_as_a_worker_may_hang(kind: Stage) -> None:
    told, codec, is_encoder = list[tuple[int, int]](), FakeCodec(), kind is Stage.ENCODE

    def report(what: str, done: int, total: int) -> None:
        told.append((done, total))

    stage: CodecStage = DecoderStage(codec, 0, codec.clock, report)
    if is_encoder:
        stage = EncoderStage(codec, SILENCE, SPARE, codec.clock, report)
    receive(stage, past(spoken if is_encoder else coded, A, 3))
    work(stage)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_one_slow_batch_leaves_out_nothing(both: Both) -> None:
    stage, codec, audio = both
    receive(stage, past(audio, A, 90))
    for number in range(90):
        codec.batch_s = 0.1 if number == 1 else 0.008
        stage.work()
    assert codec.counts[A] == 90


def test_the_gap_is_heard_however_short_the_time() -> None:
    stage, codec = encoder()
    codec.batch_s = 0.6
    receive(stage, comes_back(A, pcm(*range(100)), pcm(*range(12))))
    out = work(stage)
    assert seqs(out) == [(A, 500 + number) for number in range(12)]
    assert isinstance(out[-1], Resumed)
    assert out[-1].steps + out[-1].left_out == 100


def test_a_past_that_cannot_be_replayed_ends_its_call_and_no_other(both: Both) -> None:
    stage, codec, audio = both
    broken = (
        comes_back(A, own=rows(1, BROKEN)) if audio is coded else comes_back(A, heard=pcm(1, int(BROKEN * FULL_SCALE)))
    )
    receive(stage, broken, past(audio, B, 4))
    out = work(stage)
    assert [m for m in out if isinstance(m, Failed)] == [Failed(A, ONE, stage.stage, "this call's audio is broken")]
    assert codec.counts == {B: 4}
    receive(stage, audio(1, A), audio(1, B))
    assert seqs(work(stage)) == [(B, 1)]


@pytest.mark.parametrize("end", ["close", "open", "resume"])
def test_a_call_that_ends_meanwhile_is_not_replayed_any_more(both: Both, end: str) -> None:
    stage, codec, audio = both
    receive(stage, past(audio, A, 10), Resumed(A, ONE, 1, 0))
    stage.work()
    new: dict[str, Message] = {"close": closed(A), "open": opened(A, 2), "resume": past(audio, A, 2, epoch=2)}
    receive(stage, new[end])
    out = work(stage)
    assert not any(isinstance(message, Resumed) and message.epoch == 1 for message in out)
    assert codec.counts == {"close": {}, "open": {A: 0}, "resume": {A: 2}}[end]


def test_a_voice_is_encoded_while_only_calls_that_come_back_are_on() -> None:
    """They may wait for just that prompt."""
    stage, _ = encoder()
    receive(stage, comes_back(A, pcm(1, 2)), prepare())
    assert [type(message) for message in work(stage)] == [Resumed, PreparePrompt]


@pytest.mark.parametrize("kind", [Stage.ENCODE, Stage.DECODE])
def test_the_line_test_s_codec_comes_back_too(kind: Stage) -> None:
    stage = EncoderStage(LoopbackCodec(), SILENCE, SPARE) if kind is Stage.ENCODE else DecoderStage(LoopbackCodec())
    out = receive(stage, comes_back(A, pcm(1, 2), pcm(3)))
    out += receive(stage, Resumed(A, ONE, 0, 0)) if kind is Stage.DECODE else []
    while stage.due_s() is not None:
        out += stage.work()
    assert [type(message) for message in out] == [Resume, *[Codes] * (kind is Stage.ENCODE), Resumed]


FRAMES, LOST = 10, 6


@pytest.mark.parametrize(
    "name", ["numpy", *(pytest.param(one, marks=pytest.mark.slow) for one in ("rustymimi", "mlx"))]
)
@pytest.mark.parametrize("kind", STAGES)
def test_after_its_whole_past_a_real_codec_goes_on_as_one_that_never_stopped(
    mimi: Path, name: str, kind: Stage
) -> None:
    """Beside another call, which goes on; past and gap of the caller are rounded to 16 bits."""
    is_encoder = kind is Stage.ENCODE
    heard = (sound("speech", FRAMES) * FULL_SCALE).round().clip(-FULL_SCALE, FULL_SCALE).astype(np.int16)
    said = codes(FRAMES)
    frames: Row = heard.astype(np.float32) / FULL_SCALE if is_encoder else said
    whole, codec = (open_codec(replace(LOOPBACK, stage=kind, codec=name, mimi=mimi, slots=SLOTS)) for _ in range(2))
    whole.open(B)
    wanted = np.array([whole.run({B: frame})[B] for frame in frames])
    stage: CodecStage = (
        EncoderStage(codec, SILENCE, SPARE, lambda: 0.0) if is_encoder else DecoderStage(codec, 0, lambda: 0.0)
    )
    audio = Frame if is_encoder else Codes
    stage.receive(opened(A))
    gap = LOST + 2 if is_encoder else LOST
    stage.receive(comes_back(B, heard[:LOST], heard[LOST:gap], said[:LOST]))
    out: list[Onward] = []
    for number in range(FRAMES):
        stage.receive(audio(A, ONE, number, frames[number]))
        out += work(stage)
    for number in range(gap, FRAMES):
        stage.receive(audio(B, ONE, number, frames[number]))
        out += work(stage)
    results = {slot: [m for m in out if isinstance(m, Frame | Codes) and m.slot == slot] for slot in (A, B)}
    for slot, first in ((A, 0), (B, LOST)):
        got = np.array([m.codes if isinstance(m, Codes) else m.pcm for m in results[slot]])
        if is_encoder:
            assert got.tolist() == wanted[first:].tolist()
        else:
            assert snr_db(wanted[first:], got) > 100
