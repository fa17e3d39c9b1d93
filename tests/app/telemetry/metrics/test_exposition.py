"""What prometheus-client makes of our histograms, read back by its own parser."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.metrics.exposition import Family, counter, gauge, histogram, info, texts
from workers.histogram import Histogram


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def page_of(*families: Family) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    pieces = list(texts(families))
    assert len(pieces) == len(families), "the event loop can do something else between two families"
    return samples(b"".join(pieces))


def test_a_bucket_counts_what_is_below_it_as_well() -> None:
    counted, values = Histogram((0.5, 1.0)), [0.1, 0.5, 0.7, 1.0, 3.0, 3.0]
    for value in values:
        counted.add(value)
    found = page_of(histogram("step_seconds", "How long.", counted))
    for bound, count in (("0.5", 2), ("1.0", 4), ("+Inf", 6)):
        assert found["moshi_bridge_step_seconds_bucket", (("le", bound),)] == count
    assert found["moshi_bridge_step_seconds_count", ()] == 6
    assert found["moshi_bridge_step_seconds_sum", ()] == pytest.approx(sum(values))


def test_each_label_has_its_own_samples_and_a_counter_ends_in_total() -> None:
    found = page_of(
        gauge("free_slots", "Free.", 3),
        counter("refusals", "Refused.", {"unsigned": 2, "no_token": 1}, "reason"),
        histogram("stage_seconds", "Stages.", {"encode": Histogram((1.0,)), "step": Histogram((1.0,))}, "stage"),
        info("build_info", "What runs.", {"version": "1", "engine": 'with "quotes"'}),
    )
    assert found["moshi_bridge_free_slots", ()] == 3
    assert found["moshi_bridge_refusals_total", (("reason", "no_token"),)] == 1
    assert found["moshi_bridge_stage_seconds_bucket", (("le", "1.0"), ("stage", "step"))] == 0
    assert found["moshi_bridge_build_info", (("engine", 'with "quotes"'), ("version", "1"))] == 1
