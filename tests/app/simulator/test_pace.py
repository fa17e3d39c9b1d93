import pytest

from app.simulator.pace import Realtime
from app.simulator.playout import PlayoutModel
from app.simulator.stream import CallerScript, CallerStream
from tests.app.simulator.test_carrier import STARTED


def opened() -> CallerStream:
    stream = CallerStream(STARTED, CallerScript(b"", ends_s=9.0), PlayoutModel(), 0.0)
    stream.open()
    return stream


def test_time_is_counted_since_the_start_and_never_goes_back() -> None:
    times = iter([100.0, 100.25, 100.5, 99.0])
    pace = Realtime(lambda: next(times))
    assert [pace.now_s(0.0), pace.now_s(0.75), pace.now_s(0.75)] == [0.25, 0.75, 0.75]


def test_the_wait_is_until_the_stream_has_something_to_do() -> None:
    times = iter([100.0, 100.005, 100.5])
    pace, stream = Realtime(lambda: next(times)), opened()
    assert pace.wait_s(stream) == pytest.approx(0.015)
    assert pace.wait_s(stream) == 0.0
