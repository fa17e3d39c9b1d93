"""The token matrix of a prompt, cell by cell, against the rule of NVIDIA's `LMGen` stated in another way."""

import numpy as np
import pytest

from workers.engine.prompt import AGENT_SILENCE, USER_SINE, build_prompt, wrap_system_text
from workers.engine.voice_file import VoiceEmbeddings

START, PADDING = 48, 2048
RNG = np.random.default_rng(13)


def agent_frame(number: int, voice: np.ndarray) -> np.ndarray:
    return voice[number] if number < len(voice) else AGENT_SILENCE


def expected_cell(position: int, stream: int, text: list[int], voice: np.ndarray) -> int:
    if position == 0:
        return START if stream == 0 else PADDING
    if stream == 0:
        place = position - len(voice) - 6
        return text[place] if 0 <= place < len(text) else 3
    codebook, agent = (stream - 1) % 8, stream <= 8
    frame = position if codebook == 0 else position - 1
    if position == 1 and codebook:
        return PADDING
    return int((agent_frame(frame, voice) if agent else USER_SINE)[codebook])


@pytest.mark.parametrize("frames", [0, 1, 5])
@pytest.mark.parametrize("text", [[], [7], [7, 8, 9]])
def test_a_prompt_from_a_recording(frames: int, text: list[int]) -> None:
    voice = RNG.integers(0, 2048, (frames, 8), np.int32)
    prompt = build_prompt(text, voice, START, PADDING)
    length = frames + 12 + len(text)
    expected = [[expected_cell(p, k, text, voice) for k in range(17)] for p in range(length)]
    assert prompt.tokens.tolist() == expected
    assert prompt.positions == length - 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_a_prompt_from_embeddings_goes_on_with_its_cache(count: int) -> None:
    cache = RNG.integers(0, 2048, (17, 4)).astype(np.int32)
    voice = VoiceEmbeddings(np.ones((count, 4), np.float32), cache)
    prompt = build_prompt([7, 8], voice, START, PADDING)
    assert len(prompt.tokens) == 1 + 6 + 2 + 6
    assert prompt.positions == count + 14
    assert prompt.tokens[0].tolist() == cache[:, count % 4].tolist()
    second, third = prompt.tokens[1], prompt.tokens[2]
    delayed = [k for k in range(17) if k not in (0, 1, 9)]
    assert second[delayed].tolist() == cache[delayed, (count + 1) % 4].tolist()
    assert second[[0, 1, 9]].tolist() == [3, AGENT_SILENCE[0], USER_SINE[0]]
    assert third[1:9].tolist() == AGENT_SILENCE.tolist()
    assert prompt.tokens[:, 0].tolist()[1:] == [3] * 6 + [7, 8] + [3] * 6


@pytest.mark.parametrize(
    ("text", "wrapped"),
    [
        ("You are Ada.", "<system> You are Ada. <system>"),
        ("  You are Ada. \n", "<system> You are Ada. <system>"),
        ("<system> You are Ada. <system>", "<system> You are Ada. <system>"),
        ("<system> You", "<system> <system> You <system>"),
        ("", ""),
        (" ", ""),
    ],
)
def test_a_system_text_is_wrapped(text: str, wrapped: str) -> None:
    assert wrap_system_text(text) == wrapped
