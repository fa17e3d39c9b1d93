"""`moshi-bridge calls top`: the calls that are on, on the terminal, from the running service."""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

import aiohttp
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.cli.running import NOT_LET_IN, NOT_OURS, UNLIKE_OURS, operator_headers
from app.config import Settings
from app.twilio.signature import checked_base

LOOK_EVERY_S = 0.5
ANSWER_WITHIN_S = 5.0
EXIT_SETTINGS = 2
TEXT_WIDTH = 60
BAR_WIDTH = 8
SILENT_DBFS = -60.0
OTHERS_WIDTH = 76
PAPER_WIDTH = 140
"""Columns where there is no terminal."""
SID_END = 6

Snapshot = dict[str, Any]


class TopFailed(Exception):
    """The service was not reached, or does not let us; the message is one line."""


def run_top(settings: Settings, url: str | None, once: bool) -> int:
    """Show what goes on in the service at `url`, by default that of these settings; return the exit status."""
    console = Console()
    if not console.is_terminal:
        console.width = PAPER_WIDTH
    try:
        asyncio.run(_show(settings, checked_base(url or settings.local_url), once, console))
    except (TopFailed, ValueError) as error:
        print(f"moshi-bridge: {error}", file=sys.stderr)
        return EXIT_SETTINGS if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        pass
    return 0


async def _show(settings: Settings, url: str, once: bool, console: Console) -> None:
    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    async with aiohttp.ClientSession(url, headers=operator_headers(settings), timeout=timeout) as client:
        first = await _view(client, url, console.width)
        if once:
            console.print(first)
            return
        with Live(first, console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                live.update(await _look_again(client, url, console.width), refresh=True)


async def _look_again(client: aiohttp.ClientSession, url: str, width: int) -> Group | Text:
    """Return the next view; a service that is away for a while, as when it starts anew, is waited for."""
    try:
        return await _view(client, url, width)
    except TopFailed as error:
        return Text(f"{error}; trying again, Ctrl-C ends")


async def _view(client: aiohttp.ClientSession, url: str, width: int) -> Group:
    try:
        return snapshot_view(await _ask(client, url), width)
    except UNLIKE_OURS as error:
        raise TopFailed(f"{url}: {NOT_OURS}") from error


async def _ask(client: aiohttp.ClientSession, url: str) -> Snapshot:
    try:
        async with client.get("/api/live", params={"first": "true"}) as answer:
            if answer.status in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS):
                raise TopFailed(NOT_LET_IN)
            if answer.status != HTTPStatus.OK:
                raise TopFailed(f"{url}: {NOT_OURS} (HTTP {answer.status})")
            snapshot: Snapshot = await answer.json()
            return snapshot
    except aiohttp.ContentTypeError as error:
        raise TopFailed(f"{url}: {NOT_OURS}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TopFailed(f"no service answers at {url}: {error or type(error).__name__}") from error


def snapshot_view(snapshot: Snapshot, width: int) -> Group:
    """Return a line on the service and a row for each call, for a terminal of so many columns."""
    room = max(6, min(TEXT_WIDTH, width - OTHERS_WIDTH))
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading, width in (("call", SID_END + 1), ("with", 5), ("state", 5)):
        table.add_column(heading, no_wrap=True, min_width=width)
    for heading, width in (("for", 4), ("delay", 6), ("lead", 6), ("step", 5), ("late", 4), ("lost", 4)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for heading in ("caller", "moshi"):
        table.add_column(heading, no_wrap=True, min_width=BAR_WIDTH)
    table.add_column("Moshi said", no_wrap=True, max_width=TEXT_WIDTH)
    for call in snapshot["calls"]:
        table.add_row(*_row(call, room))
    return Group(_service_line(snapshot), "", table if snapshot["calls"] else Text("nobody is on the line"))


def _service_line(snapshot: Snapshot) -> Text:
    state = "ready" if snapshot["ready"] else "draining" if snapshot["draining"] else "takes no call now"
    if state == "takes no call now" and not snapshot["free_slots"]:
        state = "all slots taken"
    worst_ms = max((took_ms for _, took_ms in snapshot["steps"]), default=None)
    parts = [
        f"{state}, {snapshot['model']}",
        f"{snapshot['free_slots']} of {snapshot['slots']} slots free",
        f"{snapshot['waiting']} in line",
        f"worst step of the last minute {_ms(worst_ms)} of {snapshot['frame_period_ms']:.0f} ms",
        f"loop lag {_ms(snapshot['lag_ms'])}",
    ]
    return Text(" · ".join(parts))


def _row(call: dict[str, Any], room: int) -> tuple[str, ...]:
    """Return the cells of a call; `room` is for so many characters of what Moshi said last."""
    said = "".join(piece for _, piece in call["text"]["pieces"]).strip()
    way = "→ " if call["direction"] == "outbound" else ""
    return (
        f"…{escape(call['call_sid'][-SID_END:])}",
        escape(f"{way}{call['number'] or 'withheld'}"),
        call["state"],
        f"{int(call['for_s']) // 60}:{int(call['for_s']) % 60:02}",
        *map(_ms, (call["latency_ms"], call["buffered_ms"], call["stages_ms"].get("step"))),
        str(call["overruns"]),
        str(call["dropped"]),
        _bar(call["caller_dbfs"]),
        _bar(call["moshi_dbfs"]),
        escape(said[-room:].lstrip()),
    )


def _bar(level_dbfs: float) -> str:
    filled = round(BAR_WIDTH * (1 - max(level_dbfs, SILENT_DBFS) / SILENT_DBFS))
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
