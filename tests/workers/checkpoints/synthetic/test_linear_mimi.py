import numpy as np
import pytest
import rustymimi

from tests.workers.checkpoints.synthetic.conftest import Made
from tests.workers.checkpoints.synthetic.official import Codes, activity
from tests.workers.codec.sounds import snr_db
from workers.checkpoints.files import MIMI
from workers.checkpoints.synthetic.linear_mimi import coefficients, frame_codes, linear_mimi
from workers.checkpoints.synthetic.phrases import phrases
from workers.checkpoints.synthetic.script import script
from workers.codec.choose import Library, make_codec
from workers.codec.codec import CodecError
from workers.messages import FRAME_SAMPLES, Pcm, Slot, Stage

GREETING = phrases()[0]
CODES = frame_codes(script().halves)[: GREETING.frames]


@pytest.fixture(scope="module")
def mimi(made: Made) -> "rustymimi.Tokenizer":
    return rustymimi.Tokenizer(str(made("script") / MIMI), num_codebooks=8)


def encode(mimi: "rustymimi.Tokenizer", pcm: Pcm) -> Codes:
    whole = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].astype(np.float32)
    codes: Codes = mimi.encode_step(whole[None, None])[0].T.astype(np.int32)
    return codes


def decode(mimi: "rustymimi.Tokenizer", codes: Codes) -> Pcm:
    pcm: Pcm = mimi.decode_step(np.ascontiguousarray(codes.T[None].astype(np.uint32)))[0, 0]
    return pcm


def noise(level_db: float, frames: int) -> Pcm:
    return (np.random.default_rng(0).standard_normal(frames * FRAME_SAMPLES) * 10 ** (level_db / 20)).astype(np.float32)


def pink(level_db: float, frames: int) -> Pcm:
    spectrum = np.fft.rfft(noise(0, frames))
    samples = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))
    level: Pcm = (samples / samples.std() * 10 ** (level_db / 20)).astype(np.float32)
    return level


def tone(level_db: float, frequency_hz: float, frames: int) -> Pcm:
    seconds = np.arange(frames * FRAME_SAMPLES) / 24_000
    return (np.sin(2 * np.pi * frequency_hz * seconds) * 10 ** (level_db / 20)).astype(np.float32)


def test_a_phrase_is_its_own_frame_numbers_both_ways(mimi: "rustymimi.Tokenizer") -> None:
    begin, end = 8, 38
    pcm = GREETING.pcm[begin * FRAME_SAMPLES : end * FRAME_SAMPLES]
    assert encode(mimi, pcm).tolist() == CODES[begin:end].tolist()
    assert snr_db(pcm, decode(mimi, CODES[begin:end])) > 35
    assert CODES[begin:end, 0].any()


def test_silence_and_noise_of_the_line_are_code_0_and_that_is_silence(mimi: "rustymimi.Tokenizer") -> None:
    assert np.abs(decode(mimi, np.zeros((2, 8), np.int32))).max() < 2**-16
    assert not encode(mimi, np.zeros(2 * FRAME_SAMPLES, np.float32)).any()
    assert not encode(mimi, noise(-46, 20)).any()
    assert not encode(mimi, pink(-54, 20)).any()
    assert not encode(mimi, tone(-54, 440, 5)).any()
    assert not encode(mimi, tone(-46, 50, 5)).any(), "mains hum"


@pytest.mark.parametrize("library", ["numpy", "mlx"])
def test_of_entries_that_are_all_zeros_the_first_is_silence(made: Made, library: Library) -> None:
    assert (~script().halves.any(axis=2)).sum(axis=0).min() > 3
    codec = make_codec(Stage.ENCODE, library, made("script") / MIMI, 1)
    codec.open(Slot(0))
    for frame in [*np.zeros((2, FRAME_SAMPLES), np.float32), *noise(-46, 3).reshape(-1, FRAME_SAMPLES)]:
        codes = codec.run({Slot(0): frame})[Slot(0)]
        assert not isinstance(codes, CodecError)
        assert not codes.any()


def test_a_voice_is_active_even_when_faint(mimi: "rustymimi.Tokenizer") -> None:
    hello = GREETING.pcm[FRAME_SAMPLES : 5 * FRAME_SAMPLES]
    assert activity(encode(mimi, hello)).all()
    assert activity(encode(mimi, hello * np.float32(0.1))).all()
    shifted = GREETING.pcm[2_620 : 2_620 + 4 * FRAME_SAMPLES] * np.float32(0.3)
    assert activity(encode(mimi, shifted)).all(), "out of step with the frames"
    assert activity(encode(mimi, tone(-44, 440, 5))).all()


def test_a_loud_hiss_above_speech_is_coded_with_what_exists(mimi: "rustymimi.Tokenizer") -> None:
    codes = encode(mimi, noise(-6, 5))
    assert activity(codes).all()
    assert (codes[:, :2] < 1_280).all()
    assert not codes[:, 2:].any()


def test_each_frame_stands_for_itself(mimi: "rustymimi.Tokenizer") -> None:
    one = decode(mimi, CODES[[9]])
    decode(mimi, CODES[[30]])
    assert np.array_equal(decode(mimi, CODES[[9]]), one)


def test_faint_halves_of_a_phrase_become_silence() -> None:
    faint = np.full(FRAME_SAMPLES, 1e-3, np.float32)
    assert not coefficients(faint).any()
    assert coefficients(10 * faint).any()


def test_more_frames_than_the_codebook_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="1023"):
        linear_mimi(np.ones((1_024, 2, 256), np.float32), np.ones((1, 256), np.float32))
