from dataclasses import replace

from app.cli.bench.calls import Measured
from app.cli.bench.figures import caller_figures
from scripts.side_by_side.__main__ import Findings, table
from tests.app.cli.terminal import shown

FLOOR = replace(caller_figures(Measured([], {"app": 0.01})), p50_ms=20.0, snr_db=250.0)
OURS = replace(FLOOR, p50_ms=95.0, snr_db=54.3, cpu={"app": 0.015, "worker 7": 0.005})


def rows(found: dict[str, Findings]) -> dict[str, list[str]]:
    """Return the cells that are shown, by the label of their row; of two with the same label the first."""
    lines = shown(table(found, "floor")).splitlines()
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in lines]
    return {row[0]: row[1:] for row in reversed(cells)}


def test_each_side_has_a_column_and_each_figure_a_row() -> None:
    found = rows({"floor": Findings({"8 calls": FLOOR}), "ours": Findings({"8 calls": OURS}, ["1 call: no answer"])})
    assert found["mouth to ear, p50 / worst p99"] == ["20.0 ms / –", "95.0 ms / –"]
    assert found["2 s after it, at most"] == ["–", "–"]
    assert found["signal to noise"] == ["exact", "54.3 dB"]
    assert found["CPU a call-second (app)"] == ["0.0100 (0.0100)", "0.0200 (0.0150)"]
    assert found["CPU, times the floor's"] == ["1.00 (1.00)", "2.00 (1.50)"]
    assert found["not measured"] == ["", "1 call: no answer"]


def test_without_the_floor_there_is_no_comparison() -> None:
    found = rows({"floor": Findings(), "ours": Findings({"8 calls": OURS})})
    assert found["mouth to ear, p50 / worst p99"] == ["–", "95.0 ms / –"]
    assert found["CPU, times the floor's"] == ["–", "–"]
