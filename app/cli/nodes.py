"""The nodes of a cluster on the terminal, from the running service: `moshi-bridge calls`."""

import asyncio
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.call_tables import sid_end
from app.cli.service_client import NoService, open_service
from app.config import Settings


def show_nodes(settings: Settings) -> None:
    """Print the nodes and who moved; nothing without NATS_URL, one line if no service runs here."""
    if not settings.cluster.nats_url:
        return
    try:
        view = asyncio.run(_ask(settings))
    except (NoService, ValueError) as error:
        print(f"nodes: {error}")
        return
    Console().print(nodes_table(view))
    for move in view["moves"]:
        when = datetime.fromtimestamp(move["moved_s"]).strftime("%H:%M:%S")
        print(f"{when}  {sid_end(move['call_sid'])}  {move['from'] or '?'} → {move['to']}, {move['steps']} steps")


def nodes_table(view: dict[str, Any]) -> Table:
    cut_off = ", cut off from NATS" if view["cut_off"] else ""
    title = f"{view['free_slots']} of {view['slots']} slots free, {view['waiting']} wait{cut_off}"
    table = Table("node", "state", "version", "slots", "free", "calls", title=title, title_justify="left")
    for node in view["nodes"]:
        calls = " ".join(map(sid_end, node["calls"]))
        cells = (node["node"], node["state"], node["version"], str(node["slots"]), str(node["free_slots"]), calls)
        table.add_row(*map(escape, cells))
    return table


async def _ask(settings: Settings) -> dict[str, Any]:
    async with open_service(settings) as service:
        view: dict[str, Any] = await service.ask("/api/cluster")
        return view
