"""What prometheus-client makes of our histograms, read back by its own parser."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.metrics.families import counter, gauge, histogram, info, texts
from workers.histogram import Histogram


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


@given(st.lists(st.sampled_from([0.1, 0.5, 0.7, 1.0, 3.0])))
def test_a_bucket_counts_what_is_below_it_as_well(values: list[float]) -> None:
    counted = Histogram((0.5, 1.0))
    for value in values:
        counted.add(value)
    found = samples(b"".join(texts([histogram("step_seconds", "How long.", counted)])))
    for bound in (0.5, 1.0):
        bucket = found["moshi_bridge_step_seconds_bucket", (("le", str(bound)),)]
        assert bucket == sum(value <= bound for value in values)
    assert found["moshi_bridge_step_seconds_bucket", (("le", "+Inf"),)] == len(values)
    assert found["moshi_bridge_step_seconds_count", ()] == len(values)
    assert found["moshi_bridge_step_seconds_sum", ()] == counted.total


def test_each_label_has_its_own_samples_and_a_counter_ends_in_total() -> None:
    families = (
        gauge("free_slots", "Free.", 3),
        counter("refusals", "Refused.", {"unsigned": 2, "no_token": 1}, "reason"),
        histogram("stage_seconds", "Stages.", {"encode": Histogram((1.0,)), "step": Histogram((1.0,))}, "stage"),
        info("build_info", "What runs.", {"version": "1", "engine": 'with "quotes"'}),
    )
    found = samples(b"".join(texts(families)))
    assert found["moshi_bridge_free_slots", ()] == 3
    assert found["moshi_bridge_refusals_total", (("reason", "no_token"),)] == 1
    assert found["moshi_bridge_stage_seconds_bucket", (("le", "1.0"), ("stage", "step"))] == 0
    assert found["moshi_bridge_build_info", (("engine", 'with "quotes"'), ("version", "1"))] == 1


def test_the_page_comes_in_pieces() -> None:
    """So that the event loop can do something else between two families."""
    assert len(list(texts([gauge(str(number), "", number) for number in range(5)]))) == 5
