import pytest

from app.audio.mulaw import PACKET_SAMPLES
from app.simulator.trouble import Scenario, Window
from app.simulator.virtual import run_virtual


@pytest.mark.parametrize(("suppressed", "packets"), [(False, 299), (True, 199)])
def test_a_silent_caller_sends_silence_or_nothing(suppressed: bool, packets: int) -> None:
    silent = Scenario(seconds=6, silent=(Window(2, 2),), suppressed=suppressed)
    report = run_virtual(silent, said=bytes(PACKET_SAMPLES))
    assert report.record.counts["packets_in"] == packets
    assert set(report.sound[3 * 8_000 : 4 * 8_000]) == {0xFF}, "silence"
