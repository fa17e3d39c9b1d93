"""Ogg/Opus as servers send it, and as they should not."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.playback_buffer import Samples
from app.cli.talk.opus import MOST_BYTES, PACKET_SAMPLES, OggPages, OpusDecoder
from tests.app.cli.talk.tones import pages, tone_s

PAGES = pages(1.0)


def decode(chunks: list[bytes]) -> Samples:
    decoder = OpusDecoder()
    return np.concatenate([decoder.decode(chunk) for chunk in chunks])


def lose_sync(chunks: list[bytes]) -> list[bytes]:
    """Cut 20 bytes out of a page."""
    return [*chunks[:9], chunks[9][:60] + chunks[9][80:], *chunks[10:]]


FAULTS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], float]] = {
    "whole": (lambda chunks: chunks, 1.0),
    "no headers": (lambda chunks: chunks[1:], 0.96),
    "pages lost": (lambda chunks: chunks[:5] + chunks[8:], 0.88),
    "starts within a page": (lambda chunks: [chunks[3][50:], *chunks[4:]], 0.84),
    "garbage between pages": (lambda chunks: [chunk + b"OggX\x00garbage" for chunk in chunks], 1.0),
    "bytes lost within a page": (lose_sync, 0.96),
    "a new stream": (lambda chunks: chunks + chunks, 2.0),
    "all in one message": (lambda chunks: [b"".join(chunks)], 1.0),
    "a byte a message": (lambda chunks: [bytes((byte,)) for byte in b"".join(chunks)], 1.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_tone_is_heard_in_spite_of(fault: str) -> None:
    damage, length_s = FAULTS[fault]
    heard_s = tone_s(decode(damage(PAGES)))
    assert length_s - 0.09 <= heard_s <= length_s + 0.02


def test_ten_seconds_in_one_message_are_decoded() -> None:
    """sphn raises beyond 5 s."""
    assert tone_s(decode([b"".join(pages(10.0))])) > 9.9


def test_an_encoded_packet_is_one_page_after_the_two_headers() -> None:
    counts = [len(list(OggPages().push(page))) for page in PAGES[:4]]
    assert counts == [3, 1, 1, 1]
    assert len(decode(PAGES)) % PACKET_SAMPLES == 0


@given(st.lists(st.binary(max_size=300) | st.sampled_from(PAGES[:4]), max_size=20))
def test_no_bytes_raise(chunks: list[bytes]) -> None:
    decode([b"", *chunks])


def test_what_never_becomes_a_page_is_not_kept() -> None:
    splitter = OggPages()
    endless = b"OggS" + bytes(22) + b"\xff" + b"\xff" * 255
    for _ in range(3):
        assert all(len(page) <= MOST_BYTES for page in splitter.push(endless + bytes(MOST_BYTES)))
    (page,) = splitter.push(PAGES[5])
    assert page == PAGES[5]
