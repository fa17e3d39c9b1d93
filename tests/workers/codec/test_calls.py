import numpy as np
import pytest

from tests.workers.codec.sounds import codes, sound
from workers.codec.codec import CodecError, silence_codes
from workers.codec.mimi import MimiDecoder, MimiEncoder
from workers.messages import Slot

FRAME = sound("speech", 1)[0]
NOT_A_NUMBER = np.where(np.arange(1_920) == 7, np.float32("nan"), FRAME).astype(np.float32)


def assert_refused(result: object, reason: str) -> None:
    assert isinstance(result, CodecError)
    assert reason in str(result)


@pytest.mark.parametrize(
    ("slot", "frame", "reason"),
    [
        (3, FRAME, "not one of 3"),
        (1, FRAME[:960], "float32 of shape"),
        (1, FRAME.astype(np.float64), "float64"),
        (1, NOT_A_NUMBER, "not a finite number"),
    ],
)
def test_a_bad_frame_ends_its_call_and_no_other(
    encoder: MimiEncoder, slot: int, frame: np.ndarray[tuple[int], np.dtype[np.float32]], reason: str
) -> None:
    encoder.open(Slot(0))
    wanted = np.array(encoder.encode({Slot(0): FRAME})[Slot(0)])
    encoder.open(Slot(0))
    results = encoder.encode({Slot(0): FRAME, Slot(slot): frame})
    assert np.array_equal(np.array(results[Slot(0)]), wanted)
    assert_refused(results[Slot(slot)], reason)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.full(8, 2_048, np.int32), "a code is"),
        (np.full(8, -1, np.int32), "a code is"),
        (np.zeros(7, np.int32), "8 integers"),
        (np.zeros(8, np.float32), "8 integers"),
    ],
)
def test_bad_codes_are_refused(
    decoder: MimiDecoder, frame: np.ndarray[tuple[int], np.dtype[np.int32]], reason: str
) -> None:
    for slot in (Slot(0), Slot(2)):
        decoder.open(slot)
    good = codes(1)[0]
    results = decoder.decode({Slot(0): good, Slot(2): frame})
    assert not isinstance(results[Slot(0)], CodecError)
    assert_refused(results[Slot(2)], reason)


def test_nothing_in_nothing_out(encoder: MimiEncoder, decoder: MimiDecoder) -> None:
    assert encoder.encode({}) == {}
    assert decoder.decode({}) == {}


def test_the_codes_of_silence_are_those_of_a_call_that_begins_in_silence(encoder: MimiEncoder) -> None:
    silence = silence_codes(encoder, Slot(2), 4)
    assert silence.shape == (4, 8)
    encoder.open(Slot(2))
    for frame in silence:
        assert np.array(encoder.encode({Slot(2): np.zeros(1_920, np.float32)})[Slot(2)]).tolist() == frame.tolist()


def test_results_are_the_callers_to_keep(decoder: MimiDecoder) -> None:
    decoder.open(Slot(0))
    first = np.array(decoder.decode({Slot(0): codes(1)[0]})[Slot(0)])
    decoder.open(Slot(0))
    kept = decoder.decode({Slot(0): codes(1)[0]})[Slot(0)]
    decoder.decode({Slot(0): codes(2)[1]})
    assert np.array_equal(np.array(kept), first)


def test_a_call_takes_eight_mib_a_direction(encoder: MimiEncoder, decoder: MimiDecoder) -> None:
    assert 7.8 < encoder.bytes_per_call / 2**20 < 8.0
    assert 7.8 < decoder.bytes_per_call / 2**20 < 8.0


def test_warming_up_leaves_no_trace(encoder: MimiEncoder, decoder: MimiDecoder) -> None:
    encoder.open(Slot(0))
    decoder.open(Slot(0))
    said, heard = encoder.encode({Slot(0): FRAME})[Slot(0)], decoder.decode({Slot(0): codes(1)[0]})[Slot(0)]
    encoder.warm()
    decoder.warm()
    assert np.array_equal(np.array(encoder.encode({Slot(0): FRAME})[Slot(0)]), np.array(said))
    assert np.array_equal(np.array(decoder.decode({Slot(0): codes(1)[0]})[Slot(0)]), np.array(heard))
