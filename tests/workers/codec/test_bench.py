from pathlib import Path

import pytest

from workers.codec.bench import Case, CodecRow, CodecTime, calls_held, measure, set_ratios, table


def measured(path: str, rows: int, ms: float, direction: str = "encode") -> CodecRow:
    case = Case(path, direction, rows, 1, 10, "mimi")
    return CodecRow(case, path == "numpy", CodecTime(ms, ms * 1.1, ms, 200, 8))


def test_as_many_calls_hold_as_the_slower_direction_allows() -> None:
    faster = [measured("numpy", rows, 5 * rows) for rows in (1, 2, 4, 8)]
    slower = [measured("numpy", rows, 20 * rows, "decode") for rows in (1, 2, 4, 8)]
    assert calls_held([*faster, *slower]) == 3
    assert calls_held([measured("numpy", rows, rows) for rows in (1, 2, 4)]) == 4, "no more than were measured"


def test_the_table_has_ratios_to_one_call_on_rustymimi() -> None:
    rows = [measured("rustymimi", 1, 50), measured("numpy", 4, 20), measured("numpy", 4, 20, "decode")]
    set_ratios(rows)
    assert [row.ratio for row in rows] == [1, 10, None]
    assert "numpy         4       1  encode +     20.0    22.0    20.0         10.0" in table(rows)
    assert "4 calls hold 80 ms" in table(rows)


@pytest.mark.parametrize(("path", "direction"), [("numpy", "encode"), ("numpy", "decode"), ("rustymimi", "encode")])
def test_a_measurement(mimi: Path, path: str, direction: str) -> None:
    taken = measure(Case(path, direction, 1, 1, 3, str(mimi)))
    assert 0 < taken.p50_ms <= taken.p95_ms
    assert taken.process_mib > 150
