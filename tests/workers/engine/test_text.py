"""Text tokens become words."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from workers.engine.text import Tokenizer

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
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer(path)


def ids(path: Path, text: str) -> list[int]:
    return list(SentencePieceProcessor(model_file=str(path)).encode(text))


def byte(value: int) -> int:
    """Return the id of a byte piece; they follow the four special ids."""
    return 4 + value


def read(tokenizer: Tokenizer, *tokens: int) -> list[str]:
    return [*map(tokenizer.decoder(), tokens)]


def test_pieces_read_on_from_one_another(path: Path, tokenizer: Tokenizer) -> None:
    padded = [token for id_ in ids(path, "hello my friend") for token in (3, 3, 0, id_)]
    assert "".join(read(tokenizer, *padded)) == " hello my friend"


def test_padding_and_control_pieces_say_nothing(tokenizer: Tokenizer) -> None:
    assert read(tokenizer, 0, 1, 2, 3) == ["", "", "", ""]


def test_bytes_wait_for_their_character(tokenizer: Tokenizer) -> None:
    euro = [byte(value) for value in "€".encode()]
    assert read(tokenizer, euro[0], 3, euro[1], 0, euro[2]) == ["", "", "", "", "€"]


def test_a_broken_character_is_shown_as_such(path: Path, tokenizer: Tokenizer) -> None:
    start, word = byte("€".encode()[0]), ids(path, "hello")[0]
    said = read(tokenizer, start, word)
    assert said[0] == ""
    assert said[1].startswith("\ufffd ")
    assert read(tokenizer, byte(0x80)) == ["\ufffd"]


@given(tokens=st.lists(st.integers(-5, 400), max_size=30))
def test_nothing_raises(tokenizer: Tokenizer, tokens: list[int]) -> None:
    "".join(read(tokenizer, *tokens)).encode()


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.model"
    wrong.write_bytes(b"nonsense")
    with pytest.raises((OSError, RuntimeError)):
        Tokenizer(wrong)


def test_a_text_is_split_into_words_whose_pieces_belong_together(tokenizer: Tokenizer) -> None:
    words = tokenizer.words("how are 😀 you, friend?")
    spoken = ["".join(read(tokenizer, *word)) for word in words]
    assert spoken == [" how", " are", " 😀", " you,", " friend?"]


def test_control_characters_are_spaces_between_words(tokenizer: Tokenizer) -> None:
    assert tokenizer.words("how\nare\0\x1b\x85you\x7f") == tokenizer.words("how are you")


def test_what_is_no_word_is_split_so_that_a_sentence_can_end(tokenizer: Tokenizer) -> None:
    words = tokenizer.words("😀" * 100)
    assert [len(word) for word in words] == [64] * 6 + [401 - 6 * 64]
    assert "".join("".join(read(tokenizer, *word)) for word in words) != ""


@given(text=st.text(st.characters(exclude_categories=["Cc"]), max_size=200))
def test_any_text_becomes_words_that_decode_to_it(path: Path, tokenizer: Tokenizer, text: str) -> None:
    words = tokenizer.words(text)
    assert all(words)
    assert not any(token in (0, 3) for word in words for token in word)
    spoken = "".join("".join(read(tokenizer, *word)) for word in words)
    model = SentencePieceProcessor(model_file=str(path))
    assert spoken.split() == model.normalize(text.encode(errors="replace").decode()).replace("▁", " ").split()
