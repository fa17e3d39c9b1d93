"""The gauge of the event loop."""

from app.telemetry.event_loop_lag import EventLoopLag


def test_percentiles_of_what_was_noted() -> None:
    gauge = EventLoopLag()
    assert gauge.as_json()["p99_ms"] == 0
    for lag_s in [0.001] * 99 + [0.5]:
        gauge.note(lag_s)
    figures = gauge.as_json()
    assert figures["p50_ms"] == 1.0
    assert figures["p100_ms"] == 500.0
