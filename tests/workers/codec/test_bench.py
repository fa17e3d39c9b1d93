from dataclasses import replace
from pathlib import Path

import pytest

from workers.codec.bench import Case, CodecFigures, CodecRow, CodecTime, calls_held, measure, table, with_ratios


def measured(path: str, rows: int, ms: float, direction: str = "encode") -> CodecRow:
    case = Case(path, direction, rows, 1, 10, "mimi")
    return CodecRow(case, path == "numpy", CodecTime(ms, ms * 1.1, ms, 200, 8))


def test_as_many_calls_hold_as_the_slower_direction_allows() -> None:
    faster = [measured("numpy", rows, 5 * rows) for rows in (1, 2, 4, 8)]
    slower = [measured("numpy", rows, 20 * rows, "decode") for rows in (1, 2, 4, 8)]
    assert calls_held([*faster, *slower]) == 3


def test_calls_are_not_promised_beyond_what_was_measured() -> None:
    assert calls_held([measured("numpy", rows, rows) for rows in (1, 2, 4)]) == 4


def test_ratios_are_against_one_call_on_rustymimi() -> None:
    rows = with_ratios([measured("rustymimi", 1, 50), measured("numpy", 4, 20), measured("numpy", 4, 20, "decode")])
    assert [row.ratio for row in rows] == [1, 10, None]


def test_the_table_says_it_all() -> None:
    figures = CodecFigures([replace(measured("numpy", 4, 20), ratio=10.0)], 8)
    assert "numpy         4       1  encode +     20.0" in table(figures)
    assert "8 calls hold 80 ms" in table(figures)


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_a_measurement(mimi: Path, direction: str) -> None:
    taken = measure(Case("numpy", direction, 1, 1, 3, str(mimi)))
    assert 0 < taken.p50_ms <= taken.p95_ms
    assert taken.process_mib > 150
