"""The numbers of calls as they go, on a manager whose workers are a list."""

import numpy as np
import pytest

from app.calls.end_reason import EndReason
from app.telemetry.metrics.catalogue import call_families
from app.telemetry.metrics.exposition import texts
from app.twilio.events import Media, Stopped
from tests.app.calls.front import ANN, BOB, EVE, Front
from tests.app.telemetry.metrics.test_exposition import samples
from workers.messages import FRAME_SAMPLES, Frame, Span, Stage


def numbers(front: Front) -> dict[str, float]:
    """Return the samples by name and label values, `calls{live}` say; buckets are left out."""
    found = samples(b"".join(texts(call_families(front.manager))))
    short = {
        name.removeprefix("moshi_bridge_") + (f"{{{','.join(value for _, value in labels)}}}" if labels else ""): value
        for (name, labels), value in found.items()
        if "_bucket" not in name
    }
    assert not any(value < 0 for value in short.values())
    return short


async def test_calls_are_counted_by_how_far_they_have_come_and_by_how_they_ended() -> None:
    front = Front(max_calls=3)
    front.ring(ANN)
    bob = front.talk(BOB)
    eve = front.talk(EVE)
    found = numbers(front)
    assert (found["slots"], found["free_slots"], found["ready"]) == (3, 0, 0)
    ends = {f"calls_ended_total{{{reason.name.lower()}}}" for reason in EndReason}
    assert ends <= found.keys(), "or Prometheus would not see the first of its kind as a rise"
    assert (found["calls{reserved}"], found["calls{live}"]) == (1, 2)
    bob.handle_event(Stopped())
    eve.end(EndReason.WORKER_LOST, "step-0")
    found = numbers(front)
    assert (found["free_slots"], found["ready"]) == (2, 1)
    assert (found["calls{reserved}"], found["calls{live}"]) == (1, 0)
    assert (found["calls_ended_total{caller_hung_up}"], found["calls_ended_total{worker_lost}"]) == (1, 1)
    assert found["call_duration_seconds_count"] == 2


async def test_a_frame_is_timed_from_the_app_through_each_stage_and_back() -> None:
    front = Front()
    call = front.talk(ANN)
    for packet in range(1, 6):
        call.handle_event(Media(20 * packet, bytes([0x7F]) * 160))
    heard = next(message for message in front.sent if isinstance(message, Frame))
    began_s = dict(zip(Stage, (1e9, 1e9 + 0.05, 1e9 + 0.1), strict=True))
    spans = tuple(Span(stage, at_s, at_s + 0.01) for stage, at_s in began_s.items())
    answer = Frame(heard.slot, heard.epoch, heard.seq, np.zeros(FRAME_SAMPLES, np.float32), spans=spans)
    front.manager.handle_message(answer)
    found = numbers(front)
    for stage in Stage:
        assert found[f"stage_seconds_sum{{{stage}}}"] == pytest.approx(0.01, abs=1e-6)
    assert found["wait_seconds_sum{step}"] == pytest.approx(0.04, abs=1e-6)
    assert found["wait_seconds_sum{decode}"] == pytest.approx(0.04, abs=1e-6)
    assert found["wait_seconds_count{encode}"] == found["wait_seconds_count{app}"] == found["frame_seconds_count"] == 1
    assert found["playout_buffer_seconds_count"] == 1
    assert (found["frames_out_total"], found["packets_in_total"]) == (1, 5)
    call.handle_event(Stopped())
    assert numbers(front)["packets_in_total"] == 5, "the end of a call changes nothing"
