"""One token out of many."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from workers.engine.delay_pattern import TEXT_PADDING
from workers.engine.sampling import (
    PENALTY_TOKENS,
    SamplingBranches,
    SamplingSettings,
    call_settings,
    penalize,
    sample,
)
from workers.messages import SamplingChanges

UNIFORMS = 4000


def drawn(logits: list[float], temperature: float, most: int, top_k: int | None = None) -> NDArray[np.float64]:
    """Return how often each token comes when the uniforms are spread evenly over [0, 1)."""
    rows = mx.array(np.tile(np.array(logits, np.float32), (UNIFORMS, 1)))
    uniforms = mx.arange(UNIFORMS)[:, None] / UNIFORMS
    temperatures, fewer = mx.full((UNIFORMS, 1), temperature), mx.full((UNIFORMS, 1), float(top_k or most))
    branches = SamplingBranches(
        most, most, any_greedy=temperature == 0, any_sampled=most > 1, mixed_top_k=top_k is not None, penalizes=False
    )
    tokens = np.array(sample(rows, uniforms, temperatures, fewer, most, branches))
    shares: NDArray[np.float64] = np.array([np.mean(tokens == token) for token in range(len(logits))])
    return shares


def softmax(logits: list[float], temperature: float, keep: int) -> NDArray[np.float64]:
    scores = np.array(logits) / temperature
    scores[np.argsort(-scores)[keep:]] = -np.inf
    weights: NDArray[np.float64] = np.exp(scores - scores.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


LOGITS = [0.3, -1.0, 2.0, 1.5, 0.0, 1.9, -3.0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("most", "top_k"), [(2, None), (4, None), (7, None), (100, None), (6, 1), (6, 2), (6, 5)])
def test_tokens_come_as_often_as_they_should(temperature: float, most: int, top_k: int | None) -> None:
    """A row may draw from fewer than the others."""
    wanted = softmax(LOGITS, temperature, top_k or most)
    assert drawn(LOGITS, temperature, most, top_k) == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("most", [1, 4])
def test_temperature_0_takes_the_first_of_the_best(most: int) -> None:
    assert drawn([0.0, 5.0, 5.0, 1.0], 0.0, most).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_smallest_and_the_largest_uniform_give_a_likely_token(uniform: float) -> None:
    logits = mx.array([[0.0, -200.0, 1.0, -200.0]])
    branches = SamplingBranches(4, 4, any_greedy=False, any_sampled=True, mixed_top_k=False, penalizes=False)
    token = sample(logits, mx.array([[uniform]]), mx.ones((1, 1)), mx.full((1, 1), 4.0), 4, branches).item()
    assert token in (0, 2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_nothing_is_a_number_some_token_is_taken(temperature: float) -> None:
    assert drawn([mx.nan, 1.0, mx.nan, mx.inf, 0.0, mx.nan], temperature, 3).sum() == 1


def test_recent_text_is_scored_down_padding_is_not_but_may_be_biased() -> None:
    logits = mx.array([[1.0, 2.0, -2.0, 4.0, 8.0, 0.0]] * 3)
    recent = mx.full((3, PENALTY_TOKENS), TEXT_PADDING, mx.int32)
    recent[0, :3] = mx.array([1, 2, 1])
    scored = penalize(logits, recent, mx.array([[2.0], [1.0], [1.0]]), mx.array([[0.0], [0.5], [-3.0]]))
    expected = [[1.0, 1.0, -4.0, 4.0, 8.0, 0.0], [1.0, 2.0, -2.0, 4.5, 8.0, 0.0], [1.0, 2.0, -2.0, 1.0, 8.0, 0.0]]
    assert scored.tolist() == expected


@pytest.mark.parametrize(
    "wrong",
    [{"text_temperature": -1.0}, {"audio_temperature": float("nan")}, {"audio_top_k": 0}, {"repetition_penalty": 0.0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"temperature|top_k|penalty"):
        SamplingSettings(**wrong)  # type: ignore[arg-type]


DEFAULT = SamplingSettings(text_top_k=20)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ((), DEFAULT),
        ((("text_temperature", 0.3), ("audio_top_k", 9.0)), replace(DEFAULT, text_temperature=0.3, audio_top_k=9)),
        ((("text_top_k", 21.0),), DEFAULT),
        ((("text_top_k", 0.0), ("padding_bias", -2.0)), replace(DEFAULT, padding_bias=-2.0)),
        ((("seed", 1.0), ("text_temperature", -1.0), ("audio_temperature", float("nan"))), DEFAULT),
        ((("audio_top_k", float("inf")), ("repetition_penalty", 1e300)), DEFAULT),
        ((("text_temperature", "hot"), ("text_top_k", None), ("padding_bias", 10**400)), DEFAULT),
    ],
)
def test_of_a_calls_settings_what_means_nothing_is_left_out_and_a_top_k_is_at_most_the_defaults(
    changes: SamplingChanges, wanted: SamplingSettings
) -> None:
    assert call_settings(DEFAULT, changes) == wanted
