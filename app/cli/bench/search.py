"""Search over many calls, made up, in a call log of its own: what writing a call and a query take."""

import random
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from app.cli.bench.output import ms, write_json
from app.telemetry.call_log.address import Address
from app.telemetry.call_log.database import Database
from app.telemetry.call_log.entry import CallEntry, TranscriptWord

VOCABULARY, TURNS, TURN_WORDS = 5_000, 20, 8
RARE_EVERY = 500
"""In one of so many calls there is a rare word."""
QUERIES = {"a rare word": "refund", "two words": "w1 w2", "a common beginning": "w4", "in every call": "yes"}
LIMIT, TIMES = 50, 20
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def bench_search(calls: int, json_path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calls.db"
        figures = measure(Address(str(file), file.with_suffix(".waiting"), file), calls)
    table = Table("", "found", "median", "slowest", title=f"Search over {calls} calls")
    for name, one in figures["queries"].items():
        table.add_row(name, str(one["found"]), ms(one["p50_ms"]), ms(one["max_ms"]))
    Console().print(table)
    Console().print(f"writing a call: {ms(figures['write_ms'])}")
    write_json(json_path, figures)


def measure(address: Address, calls: int) -> dict[str, Any]:
    database = Database(address)
    database.migrate()
    began_s = time.perf_counter()
    for entry in _calls(calls):
        database.write(entry)
    write_ms = (time.perf_counter() - began_s) * 1000 / calls
    return {"write_ms": write_ms, "queries": {name: _ask(database, query) for name, query in QUERIES.items()}}


def _ask(database: Database, query: str) -> dict[str, float]:
    took_ms = []
    for _ in range(TIMES):
        began_s = time.perf_counter()
        found = database.search(query, LIMIT)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return {"found": len(found), "p50_ms": median(took_ms), "max_ms": max(took_ms)}


def _calls(count: int) -> Iterator[CallEntry]:
    drawn = random.Random(1)  # noqa: S311 - not for secrets
    for number in range(count):
        words = [f"w{int(VOCABULARY ** drawn.random())}" for _ in range(TURNS * TURN_WORDS)]
        words[0] = "yes"
        words[1] = words[1] if number % RARE_EVERY else "refund"
        said = [
            TranscriptWord(at_s := place * 0.3 + place // TURN_WORDS * 2.0, word, _side(place), at_s + 0.25)
            for place, word in enumerate(words)
        ]
        parties = ("inbound", "+15550100001", "+15550100000", "…0001", "…0000")
        at = BEGIN + timedelta(minutes=number)
        yield CallEntry(f"CA{number:032}", "bench", "", *parties, 0, "", at, ended_at=at, transcript=said)


def _side(place: int) -> str:
    return ("caller", "moshi")[place // TURN_WORDS % 2]
