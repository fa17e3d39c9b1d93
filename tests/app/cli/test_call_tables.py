from dataclasses import replace

import pytest

from app.calls.transcript import Side
from app.cli.call_tables import call_page, calls_table, clock_of, found_table
from app.telemetry.call_log.entry import StreamEntry, TranscriptWord
from app.telemetry.call_log.search import FoundTurn
from tests.app.cli.terminal import shown
from tests.app.telemetry.call_log.records import ANN, BOB, NOON, entry, outbound

TERMINAL = 80


def test_a_row_says_when_with_whom_how_long_how_it_ended_and_how_it_sounded() -> None:
    kept = replace(entry(), counters={"underruns": 3})
    (line,) = [line for line in shown(calls_table([kept])).splitlines() if ANN[-6:] in line]
    assert [
        fact for fact in ("…0001", "0:31.0", "caller hung up (bye)", "caller", "250 ms", "3") if fact not in line
    ] == []
    assert "it is on" in shown(calls_table([entry(ended=False)]))
    assert "…0009" in shown(calls_table([outbound(entry(BOB, caller="+15550100009"))])), "the other party"


def test_on_a_terminal_nothing_is_cut_off_and_no_date_is_broken() -> None:
    longest = replace(entry(), end_detail="", ended_by="service", end_reason="the stream belongs to another call")
    words = shown(calls_table([longest]), TERMINAL).split()
    assert f"{longest.reserved_at.astimezone():%Y-%m-%d}" in words
    assert {"gaps", "service", "0:31.0", "…0001", "another"} <= set(words)
    assert "…" not in "".join(words).replace(f"…{ANN[-6:]}", "").replace("…0001", "")


def test_the_page_of_a_call_tells_all() -> None:
    assert "persona" not in shown(call_page(entry())), "Moshi as its weights are"
    page = shown(call_page(replace(entry(), persona="ada")))
    assert ["persona", "ada"] in [line.split() for line in page.splitlines()]
    for fact in (ANN, "AC1", "…0001, …0000 (inbound)", "synthetic:script, in slot 2", "50 ms / 50 ms / 50 ms"):
        assert fact in page
    for fact in (
        "frames_out",
        "0:01.5  stream started",
        "0:31.0  ended",
        "0:02.0  Moshi   Hello.",
        "0:03.5  Caller  Hi",
    ):
        assert fact in page


@pytest.mark.parametrize(
    "show", [calls_table, lambda calls: call_page(calls[0]), lambda calls: calls[0].as_json(whole=True)]
)
@pytest.mark.parametrize("number", ["caller", "called"])
def test_no_number_is_shown_in_full(show: object, number: str) -> None:
    assert callable(show)
    kept = entry()
    assert getattr(kept, number) not in shown(show([kept]))


def test_nothing_that_was_said_is_taken_for_markup() -> None:
    assert "[bold]" in shown(call_page(replace(entry(), transcript=[TranscriptWord(1.0, "[bold]", stop_s=1.5)])))


def test_what_is_found_is_a_row_with_the_other_party_and_the_time() -> None:
    found = FoundTurn(ANN, NOON, "inbound", "…0001", "…0000", Side.CALLER, 61.25, "a [bold] refund")
    row = shown(found_table([found]))
    for fact in (ANN[-6:], "…0001", "1:01.2", "Caller", "a [bold] refund"):
        assert fact in row


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.0"), (9.96, "0:10.0"), (59.96, "1:00.0"), (3_600, "60:00.0"), (61.25, "1:01.2")]
)
def test_a_length_reads_as_minutes_and_seconds(seconds: float, text: str) -> None:
    assert clock_of(seconds) == text


def test_the_streams_of_a_call_that_came_back_are_shown() -> None:
    kept = entry()
    assert kept.ended_at
    first = StreamEntry(1, kept.reserved_at, None, None, kept.ended_at, "the socket was lost", "", "one", "")
    second = first._replace(number=2, reserved_at=kept.ended_at, end_reason="time limit", recording="", ended_at=None)
    page = shown(call_page(replace(kept, streams=[first, second])))
    assert "reserved at 0:00.0, the socket was lost, kept in one" in page
    assert "reserved at 0:31.0, time limit, no recording" in page
