from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

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
    Pong,
    Prepared,
    Progress,
    Ready,
    Slot,
    Span,
    Stage,
    StartRefused,
    WorkerConfig,
)
from workers.wire import LENGTH, parse, serialize

SPANS = (Span(Stage.ENCODE, 1.0, 1.5), Span(Stage.STEP, 1.5, 2.0))
CONFIG = WorkerConfig(
    stage=Stage.DECODE,
    slots=4,
    engine="mlx",
    codec="rustymimi",
    checkpoint="hf://kyutai/moshiko-mlx-q4",
    quantize=4,
    cache=Path("/cache"),
    greeting_frames=25,
    max_call_s=3_600,
    mimi=Path("/mimi"),
)
EVERY_KIND = [
    Open(Slot(1), Epoch(2), 3, np.arange(24, dtype=np.int32).reshape(3, 8)),
    Open(Slot(1), Epoch(2)),
    Close(Slot(1), Epoch(2)),
    Frame(Slot(1), Epoch(2), 3, np.linspace(-1, 1, 1_920, dtype=np.float32), " hé", 4, SPANS, bytes(34)),
    Frame(Slot(1), Epoch(2), 3, None),
    Codes(Slot(1), Epoch(2), 3, np.arange(8, dtype=np.int32), " hi", 4, SPANS),
    Failed(Slot(1), Epoch(2), Stage.STEP, "reason"),
    Failed(Slot(1), Epoch(2), Stage.STEP, "reason", internal=True),
    CONFIG,
    Progress("loading", 1, 2),
    Prepared(Path("/mimi"), 3),
    Prepared(None, 0),
    Ready("on a CPU"),
    StartRefused("MOSHI_CHECKPOINT is not there"),
    Ping(1),
    Pong(1),
]


def test_every_kind_of_message_is_here() -> None:
    assert {type(message) for message in EVERY_KIND} == {*get_args(PipelineMessage), *get_args(ControlMessage)}


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: type(message).__name__)
def test_a_message_is_parsed_as_it_was_serialized(message: PipelineMessage | ControlMessage) -> None:
    back = parse(memoryview(serialize(message))[LENGTH.size :])
    assert type(back) is type(message)
    for field in fields(message):
        np.testing.assert_equal(getattr(back, field.name), getattr(message, field.name))


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: type(message).__name__)
def test_a_message_cannot_be_changed(message: PipelineMessage | ControlMessage) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(message, fields(message)[0].name, None)


def test_codes_are_small_on_the_wire() -> None:
    assert len(serialize(EVERY_KIND[5])) < 200


def test_an_array_of_another_kind_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        serialize(Frame(Slot(1), Epoch(2), 3, np.zeros(1_920)))  # type: ignore[arg-type]
