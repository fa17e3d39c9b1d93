"""The vocabulary of forced speech: pieces of the tokenizer, recordings, tones, and the weights that say them."""

from itertools import chain

import mlx.core as mx
import numpy as np
import pytest
import rustymimi
from moshi_mlx.utils import Sampler
from sentencepiece import SentencePieceProcessor

from tests.workers.checkpoints.synthetic.conftest import Made
from tests.workers.checkpoints.synthetic.official import byte_of, load
from tests.workers.codec.sounds import snr_db
from workers.checkpoints.files import MIMI, TOKENIZER
from workers.checkpoints.synthetic.phrases import recorded_words
from workers.checkpoints.synthetic.script import FIRST_TOKEN, script
from workers.checkpoints.synthetic.script_oracle import text
from workers.messages import FRAME_SAMPLES, Pcm

WORDS = script().words
FRAMES = {"Hello": 5, "you": 4, "a": 3}
"""Of words.json."""
SURE_NATS = 16
GAP, SECOND_GAP, SPACE = sorted(WORDS.sounds)[:3]


@pytest.fixture(scope="module")
def tokenizer(made: Made) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(made("script") / TOKENIZER))


def test_a_text_is_its_words_and_marks(tokenizer: SentencePieceProcessor) -> None:
    def pieces(text: str) -> list[str]:
        return [tokenizer.id_to_piece(token) for token in tokenizer.encode(text)]

    assert pieces("Hello, hello!") == ["▁Hello", ",", "▁hello", "!"]
    assert pieces("I'm from Ada: help?") == ["▁I'm", "▁from", "▁Ada", ":", "▁help", "?"]
    assert pieces("How can I help you") == ["▁How", "▁can", "▁", "I", "▁help", "▁", "you"], "pieces of the phrases too"
    assert pieces("Hi") == ["▁", "<0x48>", "<0x69>"]
    assert pieces("7 é") == ["▁", "<0x37>", "▁", "<0xC3>", "<0xA9>"]


def test_no_text_becomes_pieces_of_the_phrases(tokenizer: SentencePieceProcessor) -> None:
    ours = script().states
    for phrase in script().phrases:
        tokens = tokenizer.encode(phrase.text)
        assert not ours.keys() & set(tokens)
        assert tokenizer.decode(tokens) == phrase.text == text(tokens).strip()


def test_recorded_words_need_no_tokenizer(tokenizer: SentencePieceProcessor) -> None:
    for word in recorded_words():
        for said in (word.lower(), word.capitalize(), f"{word}?", f"{word}, {word}!"):
            assert list(chain(*WORDS.tokens_of(said))) == tokenizer.encode(said)
    with pytest.raises(KeyError):
        WORDS.tokens_of("zebra")


def test_a_word_is_its_recording_frame_by_frame() -> None:
    for word, frames in FRAMES.items():
        *_, token = WORDS.tokens_of(word)[0]
        code, pcm = WORDS.starts[token], recorded_words()[word]
        assert len(pcm) == frames * FRAME_SAMPLES
        for frame in pcm.reshape(-1, FRAME_SAMPLES):
            assert np.array_equal(WORDS.frame(code), frame)
            code = WORDS.sounds[code].follows
        assert code == GAP


@pytest.fixture(scope="module")
def decoded(made: Made) -> dict[int, Pcm]:
    """Return each sound as the codec decodes it, by its code."""
    mimi = rustymimi.Tokenizer(str(made("script") / MIMI), num_codebooks=8)
    codes = np.stack([sound.codes for sound in WORDS.sounds.values()])
    pcm = mimi.decode_step(np.ascontiguousarray(codes.T[None].astype(np.uint32)))[0, 0]
    return dict(zip(WORDS.sounds, pcm.reshape(-1, FRAME_SAMPLES), strict=True))


def test_every_sound_is_heard_through_the_codec(decoded: dict[int, Pcm]) -> None:
    recorded = np.stack([WORDS.frame(code) for code in decoded])
    assert snr_db(recorded, np.stack(list(decoded.values()))) > 25
    assert max(np.abs(decoded[code]).max() for code in (GAP, SECOND_GAP, SPACE)) < 2**-14


def test_a_byte_is_a_tone_that_can_be_read_back(decoded: dict[int, Pcm]) -> None:
    tones = [decoded[WORDS.starts[WORDS.tokens[f"<0x{byte:02X}>"]]] for byte in range(256)]
    assert [byte_of(tone) for tone in tones] == list(range(256))
    assert np.abs(tones).max() < 0.5
    words = np.concatenate(list(recorded_words().values())).reshape(-1, FRAME_SAMPLES)
    assert {byte_of(frame) for frame in words} == {None}
    assert byte_of(np.zeros(FRAME_SAMPLES, np.float32)) is None


@pytest.mark.parametrize("bits", [None, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (8, 4))])
def test_every_sound_is_followed_whatever_is_heard_and_whatever_is_forced(made: Made, bits: int | None) -> None:
    lm = load(made("script"), bits=bits)
    comma, mute = WORDS.tokens[","], WORDS.goes_on
    onward = {GAP: (mute, SECOND_GAP), SECOND_GAP: (WORDS.space, SPACE), SPACE: (FIRST_TOKEN, 0)}
    before = [WORDS.tokens["▁Hello"], comma, mute, WORDS.space]
    forced = [comma, 0, WORDS.tokens["▁Hello"], WORDS.tokens["<0xFF>"], WORDS.space]
    starts = {token: WORDS.starts.get(token, 0) for token in forced[1:]}
    codes = list(WORDS.sounds)
    x = lm.text_emb(mx.array([before[code % len(before)] for code in codes])[:, None])
    x = x + lm.audio_embs[0](mx.array(codes)[:, None])
    for first, second in ((1_100, 2_047), (7, 0), (0, 0)):
        heard = lm.audio_embs[8](mx.array([[first]])) + lm.audio_embs[9](mx.array([[second]]))
        out = lm.out_norm(lm.transformer(x + heard, cache=lm.transformer.make_cache()))
        logits = np.array(lm.text_linear(out)[:, 0].astype(mx.float32))
        best = np.sort(logits, axis=1)
        assert logits.argmax(axis=1).tolist() == [onward.get(code, (mute, 0))[0] for code in codes]
        assert (best[:, -1] - best[:, -2]).min() > SURE_NATS
    for token in [None, *forced]:
        tokens = logits.argmax(axis=1) if token is None else [token] * len(codes)
        now = mx.array(np.array(tokens))[:, None]
        said = np.array(lm.depformer.sample(out, Sampler(temp=0.0), now, lm.depformer_cache))[:, :, 0]
        follows = [WORDS.sounds[code].follows for code in codes]
        free = [onward[code][1] if code in onward else follow for code, follow in zip(codes, follows, strict=True)]
        wanted = free if token is None else [starts.get(token, follow) for follow in follows]
        assert said[:, 0].tolist() == wanted
        assert said[:, 1].tolist() == codes, "the second half of the sound before"
        assert not said[:, 2:].any()
