"""`moshi-bridge calls top`: the calls that are on, on the terminal, from the running service."""

import asyncio
from contextlib import suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.calls.transcript import Side
from app.cli.call_tables import SID_END, ms, sid_end
from app.cli.meter import bar
from app.cli.service_client import NoService, open_service, run_asking
from app.config import Settings

REFRESH_S = 0.5
ANSWER_WITHIN_S = 5.0
MINUTE_S = 60.0
TEXT_WIDTH = 60
BAR_WIDTH = 8
OTHERS_WIDTH, PAPER_WIDTH = 76, 140
"""Columns of all but what Moshi said, and of everything where there is no terminal."""
LEFT = {"call": SID_END + 1, "with": 5, "state": 5}
RIGHT = {"for": 4, "latency": 7, "buffer": 6, "step": 5, "late": 4, "lost": 4}
"""Headings and least widths."""


def run_top(settings: Settings, url: str | None, once: bool) -> int:
    with suppress(KeyboardInterrupt):
        return run_asking(_show(settings, url, once))
    return 0


async def _show(settings: Settings, url: str | None, once: bool) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = PAPER_WIDTH
    steps: dict[float, float] = {}
    async with open_service(settings, url, ANSWER_WITHIN_S) as service:
        first = snapshot_view(_keep_steps(await service.ask("/api/live", first="true"), steps), console.width)
        if once:
            console.print(first)
            return
        with Live(first, console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(REFRESH_S)
                try:
                    snapshot = _keep_steps(await service.ask("/api/live"), steps)
                    view: Group | Text = snapshot_view(snapshot, console.width)
                except NoService as error:  # as in a restart
                    view = Text(f"{error}; trying again, Ctrl-C ends")
                live.update(view, refresh=True)


def _keep_steps(snapshot: dict[str, Any], steps: dict[float, float]) -> dict[str, Any]:
    """Add the steps of a snapshot to those of the ones before; return it with those of the last minute."""
    steps.update(snapshot["steps"])
    for at_s in [one for one in steps if abs(snapshot["now_s"] - one) > MINUTE_S]:
        del steps[at_s]
    return {**snapshot, "steps": [*steps.items()]}


def snapshot_view(snapshot: dict[str, Any], width: int) -> Group:
    """Return a line on the service and a row for each call, for a terminal of so many columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading, least in {**LEFT, **RIGHT, "caller": BAR_WIDTH, "moshi": BAR_WIDTH}.items():
        table.add_column(heading, justify="right" if heading in RIGHT else "left", no_wrap=True, min_width=least)
    table.add_column("Moshi said", no_wrap=True, max_width=TEXT_WIDTH)
    for call in snapshot["calls"]:
        table.add_row(*_row(call, max(6, min(TEXT_WIDTH, width - OTHERS_WIDTH))))
    return Group(_service_line(snapshot), "", table if snapshot["calls"] else Text("no calls"))


def _service_line(snapshot: dict[str, Any]) -> Text:
    state = "ready" if snapshot["ready"] else "draining" if snapshot["draining"] else "accepts no call now"
    if not (snapshot["ready"] or snapshot["draining"] or snapshot["free_slots"]):
        state = "all slots taken"
    worst_ms = max((took_ms for _, took_ms in snapshot["steps"]), default=None)
    parts = [
        f"{state}, {snapshot['model']}",
        f"{snapshot['free_slots']} of {snapshot['slots']} slots free",
        f"{snapshot['waiting']} in line",
        f"worst step of the last minute {ms(worst_ms)} of {snapshot['frame_period_ms']:.0f} ms",
        f"loop lag {ms(snapshot['lag_ms'])}",
    ]
    return Text(" · ".join(parts))


def _row(call: dict[str, Any], room: int) -> tuple[str, ...]:
    """Return the cells of a call; `room` is for so many characters of what Moshi said last."""
    said = " ".join(word for speaker, word, *_ in call["transcript"]["words"] if speaker == Side.MOSHI)
    minutes, seconds = divmod(int(call["for_s"]), 60)
    arrow = "→ " if call["direction"] == "outbound" else ""
    return (
        escape(sid_end(call["call_sid"])),
        escape(f"{arrow}{call['number'] or 'withheld'}"),
        call["state"],
        f"{minutes}:{seconds:02}",
        *map(ms, (call["latency_ms"], call["buffered_ms"], call["stages_ms"].get("step"))),
        *map(str, (call["overruns"], call["dropped"])),
        *(bar(call[level], BAR_WIDTH) for level in ("caller_dbfs", "moshi_dbfs")),
        escape(said[-room:].lstrip()),
    )
