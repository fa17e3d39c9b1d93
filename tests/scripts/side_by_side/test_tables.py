from dataclasses import replace

import numpy as np
from rich.console import Console

from app.cli.bench.figures import CrowdFigures
from app.simulator.playout import Underrun
from app.simulator.trouble import Window
from app.twilio.events import RATE_HZ
from scripts.side_by_side.tables import Findings, StallFigures, stall_figures, table
from tests.app.cli.bench.test_figures import SAID, later, report

FLOOR = CrowdFigures(8, 20.0, 23.0, 250.0, 3, 1, 12.5, 480, 479, {"app": 0.01}, 1.5)
OURS = replace(FLOOR, p50_ms=95.0, snr_db=54.3, cpu={"app": 0.015, "worker 7": 0.005})
OURS_STALLED = StallFigures(95.0, 450.0, None, 4)


def rows(found: dict[str, Findings]) -> dict[str, list[str]]:
    """Return the cells that are shown, by the label of their row; of two with the same label the first."""
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table(found, "floor", 0.6))
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in shown.get().splitlines()]
    return {row[0]: row[1:] for row in reversed(cells)}


def test_each_side_has_a_column_and_each_figure_a_row() -> None:
    shown = rows({"floor": Findings({8: FLOOR}), "ours": Findings({8: OURS}, OURS_STALLED)})
    assert shown["mouth to ear, p50"] == ["20.0 ms", "95.0 ms"]
    assert shown["signal to noise"] == ["exact", "54.3 dB"]
    assert shown["gaps (after 10 s)"] == ["3 (1), 12 ms", "3 (1), 12 ms"]
    assert shown["seconds recognised"] == ["479 of 480", "479 of 480"]
    assert shown["latency left 2-10 s later"] == ["–", "450.0 ms"]
    assert shown["of that the worst second"] == ["–", "–"]


def test_processor_time_is_compared_with_the_floors() -> None:
    shown = rows({"floor": Findings({8: FLOOR}), "ours": Findings({8: OURS})})
    assert shown["CPU a call-second"] == ["0.0100", "0.0200 (app 0.0150)"]
    assert shown["CPU, times the floor's"] == ["1.00", "2.00 (app 1.50)"]


def test_without_the_floor_there_is_no_comparison() -> None:
    shown = rows({"floor": Findings(), "ours": Findings({8: OURS})})
    assert shown["CPU, times the floor's"] == ["–", "–"]


def test_what_could_not_be_measured_says_why() -> None:
    shown = rows({"floor": Findings({8: FLOOR}), "other": Findings(failed=["no environment: no index"])})
    assert shown["not measured"] == ["", "no environment: no index"]


STALL = Window(8.0, 0.6)


def test_what_a_stall_leaves_behind_is_seen_two_seconds_after_it() -> None:
    turn = round((STALL.end_s + 1.9) * RATE_HZ)
    heard = np.concatenate([later(0.1)[:turn], later(0.55)[turn:]])
    found = stall_figures(report(heard, Underrun(8.1, 0.5)), STALL)
    assert (found.before_ms, found.left_ms, found.left_most_ms, found.underruns) == (100.0, 450.0, 450.0, 1)


def test_a_stall_that_is_made_up_for_leaves_nothing() -> None:
    slow = slice(round(STALL.at_s * RATE_HZ), round((STALL.end_s + 1.5) * RATE_HZ))
    heard = later(0.1)
    heard[slow] = later(0.7)[slow]
    assert stall_figures(report(heard), STALL).left_ms == 0.0


def test_after_a_call_that_broke_down_nothing_is_claimed() -> None:
    found = stall_figures(report(np.zeros_like(SAID)), STALL)
    assert (found.before_ms, found.left_ms, found.left_most_ms) == (None, None, None)
