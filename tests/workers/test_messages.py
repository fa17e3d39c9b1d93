from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.workers.config import LOOPBACK
from workers.histogram import ROW_BOUNDS, Histogram
from workers.link import LENGTH, parse, serialize
from workers.messages import (
    Close,
    Codes,
    ControlMessage,
    Epoch,
    Failed,
    Frame,
    Open,
    Ping,
    PipelineMessage,
    Prepared,
    Progress,
    Ready,
    Slot,
    Span,
    Stage,
    StartRefused,
    WorkerVitals,
)

SPANS = (Span(Stage.ENCODE, 1.0, 1.5), Span(Stage.STEP, 1.5, 2.0))
EVERY_KIND = [
    Open(Slot(1), Epoch(2), 3, np.arange(24, dtype=np.int32).reshape(3, 8)),
    Open(Slot(1), Epoch(2)),
    Close(Slot(1), Epoch(2)),
    Frame(Slot(1), Epoch(2), 3, np.linspace(-1, 1, 1_920, dtype=np.float32), " hé", 4, SPANS, bytes(34)),
    Frame(Slot(1), Epoch(2), 3, None),
    Codes(Slot(1), Epoch(2), 3, np.arange(8, dtype=np.int32), " hi", 4, SPANS),
    Failed(Slot(1), Epoch(2), Stage.STEP, "reason", internal=True),
    replace(LOOPBACK, mimi=Path("/mimi")),
    Progress("loading", 1, 2),
    Prepared(Path("/mimi"), 3),
    Ready("on a CPU"),
    StartRefused("MOSHI_CHECKPOINT is not there"),
    Ping(),
    WorkerVitals(1 << 20, 0, 1.5, Histogram(), Histogram(ROW_BOUNDS), 0),
]


def test_every_kind_of_message_is_here() -> None:
    assert {type(message) for message in EVERY_KIND} == {*get_args(PipelineMessage), *get_args(ControlMessage)}


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: type(message).__name__)
def test_a_message_is_parsed_as_it_was_serialized(message: PipelineMessage | ControlMessage) -> None:
    back = parse(memoryview(serialize(message))[LENGTH.size :])
    assert type(back) is type(message)
    for field in fields(message):
        np.testing.assert_equal(getattr(back, field.name), getattr(message, field.name))


def test_codes_are_small_on_the_wire() -> None:
    assert len(serialize(EVERY_KIND[5])) < 200


def test_an_array_of_another_kind_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        serialize(Frame(Slot(1), Epoch(2), 3, np.zeros(1_920)))  # type: ignore[arg-type]
