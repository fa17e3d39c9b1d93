"""The lag of the event loop."""

from app.telemetry.event_loop_lag import EventLoopLag


def test_lag_is_reported_in_percentiles() -> None:
    lag = EventLoopLag()
    assert lag.as_json()["p99_ms"] == 0
    for lag_s in [0.001] * 99 + [0.5]:
        lag.add(lag_s)
    figures = lag.as_json()
    assert figures["p50_ms"] == 1.0
    assert figures["p100_ms"] == 500.0
