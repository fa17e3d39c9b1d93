from pathlib import Path

from sentencepiece import SentencePieceProcessor

from workers.checkpoints.synthetic.random_lm import random_pieces
from workers.checkpoints.synthetic.tokenizer_file import SPECIAL, PieceType, write_tokenizer


def _words(*words: str) -> list[tuple[str, PieceType]]:
    return [("▁" + word, PieceType.NORMAL) for word in words]


def test_words_come_back_and_controls_are_no_text(tmp_path: Path) -> None:
    pieces = [*SPECIAL, *_words("Hello,", "this"), ("<state 6>", PieceType.CONTROL), *_words("is")]
    write_tokenizer(tmp_path / "t.model", pieces)
    tokenizer = SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    assert tokenizer.vocab_size() == 8
    assert [tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()] == [0, 1, 2, 3], "Kyutai's"
    assert tokenizer.encode("Hello, this is") == [4, 5, 7]
    assert tokenizer.decode([1, 3, 4, 6, 5, 6, 3, 7, 2]) == "Hello, this is"
    assert tokenizer.id_to_piece(4) == "▁Hello,"
    assert tokenizer.is_control(6)


def test_bytes_make_up_what_has_no_piece(tmp_path: Path) -> None:
    pieces = random_pieces(1_000)
    write_tokenizer(tmp_path / "t.model", pieces)
    tokenizer = SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    ids = tokenizer.encode("bada ę😀")
    assert any(tokenizer.is_byte(token) for token in ids)
    assert tokenizer.decode(ids) == "bada ę😀"
    assert len(pieces) == len(set(pieces)) == tokenizer.vocab_size() == 1_000
