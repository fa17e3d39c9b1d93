"""Text tokens become words."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from workers.engine.text import TextDecoder, Vocabulary

SENTENCES = ["hello world this is a test of pieces", "how are you today my friend", "the quick brown fox jumps"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer with Moshi's special ids and byte pieces."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=320,
        byte_fallback=True,
        model_type="bpe",
        pad_id=3,
        minloglevel=2,
    )
    file = tmp_path_factory.mktemp("text") / "tokenizer.model"
    file.write_bytes(model.getvalue())
    return file


@pytest.fixture(scope="module")
def vocabulary(path: Path) -> Vocabulary:
    return Vocabulary(path)


@pytest.fixture(scope="module")
def ids(path: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(path))


def byte(value: int) -> int:
    """Return the id of a byte piece; they follow the four special ids."""
    return 4 + value


def read(vocabulary: Vocabulary, *tokens: int) -> list[str]:
    pieces = TextDecoder(vocabulary)
    return [pieces.decode(token) for token in tokens]


def test_pieces_read_on_from_one_another(vocabulary: Vocabulary, ids: SentencePieceProcessor) -> None:
    tokens = ids.encode("hello my friend")
    padded = [token for id_ in tokens for token in (3, 3, 0, id_)]
    assert "".join(read(vocabulary, *padded)) == " hello my friend"


def test_padding_and_control_pieces_say_nothing(vocabulary: Vocabulary) -> None:
    assert read(vocabulary, 0, 1, 2, 3) == ["", "", "", ""]


def test_bytes_wait_for_their_character(vocabulary: Vocabulary) -> None:
    euro = [byte(value) for value in "€".encode()]
    assert read(vocabulary, euro[0], 3, euro[1], 0, euro[2]) == ["", "", "", "", "€"]


def test_a_broken_character_is_shown_as_such(vocabulary: Vocabulary, ids: SentencePieceProcessor) -> None:
    start, word = byte("€".encode()[0]), ids.encode("hello")[0]
    said = read(vocabulary, start, word)
    assert said[0] == ""
    assert said[1].startswith("\ufffd ")
    assert read(vocabulary, byte(0x80)) == ["\ufffd"]


@given(tokens=st.lists(st.integers(-5, 400), max_size=30))
def test_nothing_raises(vocabulary: Vocabulary, tokens: list[int]) -> None:
    said = "".join(read(vocabulary, *tokens))
    said.encode("utf-8")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.model"
    wrong.write_bytes(b"nonsense")
    with pytest.raises((OSError, RuntimeError)):
        Vocabulary(wrong)


def test_a_text_is_split_into_words_whose_pieces_belong_together(vocabulary: Vocabulary) -> None:
    words = vocabulary.words("how are 😀 you, friend?")
    decode = TextDecoder(vocabulary).decode
    assert ["".join(map(decode, word)) for word in words] == [" how", " are", " 😀", " you,", " friend?"]


@given(st.text(st.characters(), max_size=200))
def test_any_text_becomes_words_that_decode_to_it(
    vocabulary: Vocabulary, ids: SentencePieceProcessor, text: str
) -> None:
    decode = TextDecoder(vocabulary).decode
    words = vocabulary.words(text)
    assert all(words)
    assert not any(token in (0, 3) for word in words for token in word)
    spoken = "".join(decode(token) for word in words for token in word)
    assert spoken.split() == ids.normalize(text.encode(errors="replace").decode()).replace("▁", " ").split()
