import json
from dataclasses import asdict
from pathlib import Path

import pytest

from app.simulator.trouble import KNOWN, Scenario, Window, read_scenario, through


def written(folder: Path, text: str) -> Path:
    path = folder / "scenario.json"
    path.write_text(text, encoding="latin-1")
    return path


def test_what_falls_into_a_window_happens_at_its_end_which_may_lie_in_the_next() -> None:
    windows = [Window(20.0, 0.5), Window(20.5, 1.0)]
    assert [through(windows, moment_s) for moment_s in (19.9, 20.0, 20.4, 21.5)] == [19.9, 21.5, 21.5, 21.5]
    assert through([], 1.5) == 1.5


def test_packets_leave_when_their_last_sample_is_spoken_on_the_callers_clock() -> None:
    assert [Scenario().leaves_s(number) for number in range(3)] == pytest.approx([0.02, 0.04, 0.06])
    assert Scenario().leaves_s(180_000 - 1) == 3600.0
    assert Scenario(drift_ppm=1_000).leaves_s(4_999) == pytest.approx(100 / 1.001)


def test_packets_of_a_group_leave_together() -> None:
    leaves_s = [Scenario(grouped=3).leaves_s(number) for number in range(7)]
    assert leaves_s == pytest.approx([0.06, 0.06, 0.06, 0.12, 0.12, 0.12, 0.18])


def test_the_troubles_of_a_scenario_are_reported_in_order() -> None:
    stall, unread, held, late, silent = (Window(at_s, 1.0) for at_s in (40.0, 10.0, 30.0, 20.0, 5.0))
    scenario = Scenario(stalls=(stall,), unread=(unread,), held=(held,), engine_late=(late,), silent=(silent,))
    assert scenario.troubles == (unread, late, held, stall)


def test_a_scenario_is_read_from_a_file(tmp_path: Path) -> None:
    stalls = [{"at_s": 5, "length_s": 0.5}, {"at_s": 8, "length_s": 1}]
    path = written(tmp_path, json.dumps({"name": "mine", "seconds": 30, "stalls": stalls, "suppressed": True}))
    wanted = Scenario("mine", 30, stalls=(Window(5.0, 0.5), Window(8.0, 1.0)), suppressed=True)
    assert read_scenario(path) == wanted


@pytest.mark.parametrize("scenario", KNOWN.values(), ids=KNOWN)
def test_whatever_is_known_can_be_written(tmp_path: Path, scenario: Scenario) -> None:
    assert read_scenario(written(tmp_path, json.dumps(asdict(scenario)))) == scenario


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stall at 20", "Invalid JSON"),
        ("[]", "an object"),
        ('{"stall": []}', "stalls"),
        ('{"stalls": [{"at_s": 20}]}', "length_s"),
        ('{"stalls": [20, 0.6]}', "stalls.0"),
        ('{"held": [{"at_s": "soon", "length_s": 1}]}', "held.0.at_s"),
        (f'{{"held": [{{"at_s": {10**400}, "length_s": 1}}]}}', "held"),
        ('{"seconds": "60"}', "seconds"),
        ('{"seconds": Infinity}', "seconds"),
        ('{"seconds": NaN}', "seconds"),
        ('{"step_s": -1}', "step_s"),
        ('{"grouped": 0}', "grouped"),
        ('{"suppressed": 1}', "suppressed"),
        ('{"drift_ppm": -1000000}', "drift_ppm"),
        ("\xff", "Invalid JSON"),
    ],
)
def test_a_file_that_makes_no_scenario_is_named_with_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=named) as wrong:
        read_scenario(path)
    assert str(path) in str(wrong.value)
