from dataclasses import replace

import numpy as np
from rich.console import Console

from app.cli.bench.calls import Measured
from app.cli.bench.figures import caller_figures
from app.simulator.playout import Underrun
from app.simulator.trouble import Window
from app.twilio.events import RATE_HZ
from scripts.side_by_side.tables import Findings, StallFigures, stall_figures, table
from tests.app.cli.bench.test_figures import SAID, later, report

FLOOR = replace(caller_figures(Measured([], {"app": 0.01})), p50_ms=20.0, snr_db=250.0)
OURS = replace(FLOOR, p50_ms=95.0, snr_db=54.3, cpu={"app": 0.015, "worker 7": 0.005})
STALL = Window(8.0, 0.6)


def rows(found: dict[str, Findings]) -> dict[str, list[str]]:
    """Return the cells that are shown, by the label of their row; of two with the same label the first."""
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table(found, "floor", 0.6))
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in shown.get().splitlines()]
    return {row[0]: row[1:] for row in reversed(cells)}


def test_each_side_has_a_column_and_each_figure_a_row() -> None:
    stalled = StallFigures(95.0, 450.0, None, 4)
    shown = rows({"floor": Findings({8: FLOOR}), "ours": Findings({8: OURS}, stalled, ["1 at once: no answer"])})
    assert shown["mouth to ear, p50"] == ["20.0 ms", "95.0 ms"]
    assert shown["signal to noise"] == ["exact", "54.3 dB"]
    assert shown["CPU a call-second"] == ["0.0100", "0.0200 (app 0.0150)"]
    assert shown["CPU, times the floor's"] == ["1.00", "2.00 (app 1.50)"]
    assert shown["latency left 2-10 s later"] == ["–", "450.0 ms"]
    assert shown["of that the worst second"] == ["–", "–"]
    assert shown["not measured"] == ["", "1 at once: no answer"]


def test_without_the_floor_there_is_no_comparison() -> None:
    shown = rows({"floor": Findings(), "ours": Findings({8: OURS})})
    assert shown["CPU, times the floor's"] == ["–", "–"]


def test_what_a_stall_leaves_behind_is_seen_two_seconds_after_it() -> None:
    turn = round((STALL.end_s + 1.9) * RATE_HZ)
    heard = np.concatenate([later(0.1)[:turn], later(0.55)[turn:]])
    assert stall_figures(report(heard, Underrun(8.1, 0.5)), STALL) == StallFigures(100.0, 450.0, 450.0, 1)


def test_a_stall_that_is_made_up_for_leaves_nothing() -> None:
    slow = slice(round(STALL.at_s * RATE_HZ), round((STALL.end_s + 1.5) * RATE_HZ))
    heard = later(0.1)
    heard[slow] = later(0.7)[slow]
    assert stall_figures(report(heard), STALL).left_ms == 0.0


def test_after_a_call_that_broke_down_nothing_is_claimed() -> None:
    assert stall_figures(report(np.zeros_like(SAID)), STALL) == StallFigures(None, None, None, 0)
