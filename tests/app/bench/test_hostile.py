import numpy as np
import pytest

from app.bench.hostile import heard_in
from app.commands.trial import TrialFailed
from app.demo.conversation import talk
from app.simulator.playout import Underrun
from app.simulator.report import CallReport, Outcome


def report(delay_ms: int, later_ms: int, from_s: float) -> CallReport:
    """A caller who hears himself so late, and later from that second on."""
    said = np.resize(talk(), 80_000)
    change = round(from_s * 8_000)
    heard = np.zeros_like(said)
    heard[delay_ms * 8 : change] = said[: change - delay_ms * 8]
    heard[change:] = said[change - later_ms * 8 : len(said) - later_ms * 8]
    gap = Underrun(from_s, 0.01)
    return CallReport("CA1", Outcome.CALLER_HUNG_UP, "", None, 10.0, said, heard, underruns=(gap,))


def test_each_part_of_a_call_has_its_own_delay_and_gaps() -> None:
    reports = [report(100, 150, 5.0), report(100, 170, 5.0)]
    quiet, besieged = heard_in(reports, [(0.0, 2.0), (2.0, 4.0)]), heard_in(reports, [(6.0, 9.0)])
    assert (quiet.p50_ms, quiet.worst_ms, quiet.gaps) == (100.0, 100.0, 0)
    assert (besieged.p50_ms, besieged.worst_ms) == (160.0, 170.0)
    assert heard_in(reports, [(4.5, 5.5)]).gaps == 2


def test_callers_who_heard_nothing_are_no_figure() -> None:
    with pytest.raises(TrialFailed):
        heard_in([report(100, 150, 5.0)], [(50.0, 60.0)])
