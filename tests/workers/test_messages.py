from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.workers.config import LOOPBACK
from workers import control_messages as c
from workers import messages as m
from workers.histogram import ROW_BOUNDS, Histogram
from workers.link import LENGTH, parse, serialize

SPANS = (m.Span(m.Stage.ENCODE, 1.0, 1.5), m.Span(m.Stage.STEP, 1.5, 2.0))
EVERY_KIND = [
    m.Open(m.Slot(1), m.Epoch(2), 3, np.arange(24, dtype=np.int32).reshape(3, 8)),
    m.Open(m.Slot(1), m.Epoch(2)),
    m.Resume(m.Slot(1), m.Epoch(2), bytes(34), 3, 9.5, 4, 5, heard=np.ones((2, 1_920), np.int16), checkpoint="abc"),
    m.Resume(m.Slot(1), m.Epoch(2), b"", 3, 9.5, own_codes=np.zeros((2, 8), np.int32)),
    m.Resumed(m.Slot(1), m.Epoch(2), 3_000, 4),
    m.Close(m.Slot(1), m.Epoch(2)),
    m.Frame(m.Slot(1), m.Epoch(2), 3, np.linspace(-1, 1, 1_920, dtype=np.float32), " hé", 4, SPANS, bytes(34)),
    m.Frame(m.Slot(1), m.Epoch(2), 3, None),
    m.Codes(m.Slot(1), m.Epoch(2), 3, np.arange(8, dtype=np.int32), " hi", 4, SPANS),
    m.Failed(m.Slot(1), m.Epoch(2), m.Stage.STEP, "reason", internal=True),
    m.Open(m.Slot(1), m.Epoch(2), persona=m.CallPersona("Hello", True, "key", (("text_top_k", 1.0),))),
    m.Say(m.Slot(1), m.Epoch(2), 3, "hé"),
    m.Say(m.Slot(1), m.Epoch(2), 3, "a lone surrogate: \ud800"),
    m.Said(m.Slot(1), m.Epoch(2), 3, whole=True),
    m.PreparePrompt("key", "text", "NATF0", np.zeros((2, 1_920), np.float32), np.zeros((2, 8), np.int32)),
    m.PromptReady("key", 262, 1 << 27),
    m.PromptRefused("key", "reason"),
    m.DropPrompt("key"),
    replace(LOOPBACK, mimi=Path("/mimi")),
    m.Speech(m.Slot(1), m.Epoch(2), 3, np.arange(32, dtype=np.int32)),
    m.SpeechEnded(m.Slot(1), m.Epoch(2)),
    c.TranscriberConfig(Path("/stt"), 4, 2, np.zeros((2, 32), np.int32)),
    c.Progress("loading", 1, 2),
    c.Prepared(Path("/mimi"), 3),
    c.Ready("on a CPU"),
    c.StartRefused("MOSHI_CHECKPOINT is not there"),
    c.Ping(),
    c.Relink(),
    c.WorkerVitals(1 << 20, 0, 1.5, Histogram(), Histogram(ROW_BOUNDS), 0),
]


def test_every_kind_of_message_is_here() -> None:
    unions = m.PipelineMessage, m.PromptMessage, c.ToWorker, c.FromWorker
    assert {type(message) for message in EVERY_KIND} == {kind for union in unions for kind in get_args(union)}


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: type(message).__name__)
def test_a_message_is_parsed_as_it_was_serialized(
    message: m.Message | c.ToWorker | c.FromWorker,
) -> None:
    back = parse(memoryview(serialize(message))[LENGTH.size :])
    assert type(back) is type(message)
    for field in fields(message):
        np.testing.assert_equal(getattr(back, field.name), getattr(message, field.name))


def test_codes_are_small_on_the_wire() -> None:
    assert len(serialize(EVERY_KIND[8])) < 200


def test_an_array_of_another_kind_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        serialize(m.Frame(m.Slot(1), m.Epoch(2), 3, np.zeros(1_920)))  # type: ignore[arg-type]
