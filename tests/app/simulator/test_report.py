import json

import numpy as np
import pytest

from app.simulator.playout import BufferLevel, ReturnedMark, Underrun
from app.simulator.report import CallReport, Outcome, StreamReport, percentile_ms
from app.simulator.stream import StreamCounts

HEARD = np.concatenate([np.full(4_000, 8), np.full(4_000, -500)]).astype(np.int16)
REPORT = CallReport(
    call_sid="CA1",
    outcome=Outcome.CALLER_HUNG_UP,
    sentence="the caller hung up",
    status=None,
    ended_s=1.0,
    said=np.zeros(8_000, np.int16),
    heard=HEARD,
    streams=(StreamReport("wss://a.b/t", "MZ1", 0.0, 1.0, StreamCounts(50, 6_400, 0, [0.001, 0.003])),),
    underruns=(Underrun(0.5, 0.02), Underrun(0.7, 0.01)),
    buffer_levels=(BufferLevel(0.25, 0.01), BufferLevel(0.33, 0.03)),
    marks=(ReturnedMark("m", 0.25, 0.33, cleared=False),),
)


def test_the_figures_are_summed_up_and_the_json_holds_them_and_no_audio() -> None:
    assert (REPORT.first_packet_s, REPORT.first_sound_s) == (0.25, 0.5), "the first audible sample"
    assert percentile_ms([], 50) is None
    figures = json.loads(json.dumps(REPORT.figures()))
    assert figures["underrun_s"] == pytest.approx(0.03)
    assert figures["buffered_ms"]["p50"] == pytest.approx(20)
    assert figures["lateness_ms"]["p100"] == pytest.approx(3)
    assert figures["buffer_levels"] == [[0.25, 10.0], [0.33, 30.0]]
    assert figures["underruns"][0] == {"start_s": 0.5, "length_s": 0.02}
    assert figures["streams"][0]["counts"] == {"packets_sent": 50, "bytes_received": 6_400, "ragged_packets": 0}
    assert "said" not in figures
