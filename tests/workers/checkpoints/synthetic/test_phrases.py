import numpy as np

from workers.checkpoints.synthetic.linear_mimi import BAND_BEGIN
from workers.checkpoints.synthetic.phrases import FOLDER, phrases
from workers.messages import FRAME_SAMPLES


def test_there_are_a_greeting_and_replies_to_answer_with() -> None:
    assert [phrase.name for phrase in phrases()] == ["greeting", "reply1", "reply2", "reply3"]
    assert phrases()[0].text.startswith("Hello, this is Moshi, standing in without its weights.")


def test_every_word_begins_within_the_recording_and_in_a_frame_of_its_own() -> None:
    for phrase in phrases():
        frames = [frame for frame, _ in phrase.words]
        assert frames == sorted(set(frames))
        assert frames[-1] < phrase.frames


def test_no_word_comes_twice() -> None:
    words = [word for phrase in phrases() for _, word in phrase.words]
    assert len(words) == len(set(words))


def test_the_pcm_is_whole_frames_of_speech_below_3_2_khz() -> None:
    for phrase in phrases():
        assert phrase.pcm.shape == (phrase.frames * FRAME_SAMPLES,)
        assert 0.5 < np.abs(phrase.pcm).max() < 1
        power = np.abs(np.fft.rfft(phrase.pcm)) ** 2
        assert power[int(len(power) * 3_200 / 12_000) :].sum() < 1e-4 * power.sum()


def test_they_fit_into_the_codebook_and_the_recordings_into_the_repository() -> None:
    assert sum(phrase.frames for phrase in phrases()) < BAND_BEGIN
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 400_000
