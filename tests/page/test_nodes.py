"""The page shows all nodes: what one of two real ones says of both, drawn by the page's own script."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.app.cluster.nodes import sid
from tests.nodes.light import light_nodes
from tests.nodes.nats_servers import nats_servers, needs_nats
from tests.page.running import Running
from tests.processes.pipeline import PATIENCE_S

if TYPE_CHECKING:
    from playwright.async_api import Page

pytest.importorskip("playwright.async_api", reason="Playwright is not installed")
pytestmark = [pytest.mark.slow, needs_nats, pytest.mark.asyncio(loop_scope="module")]

SHOW = "view => import('/page/nodes.js').then(nodes => nodes.showNodes(view))"


async def test_nodes_their_calls_and_who_moved_are_shown(running: Running, page: "Page", tmp_path: Path) -> None:
    async with nats_servers(tmp_path) as nats, light_nodes(nats.url, count=2) as nodes:
        first, second = nodes.nodes
        verb = await first.answer(sid(7))
        nodes.of(verb).begin(verb, sid(7))
        first.node.member.on_moved(sid(7), second.name, 25)
        first.node.member.announce()
        await nodes.settle()
        async with asyncio.timeout(PATIENCE_S):
            while not (view := first.node.view())["moves"]:  # noqa: ASYNC110 - of messages under way
                await asyncio.sleep(0.02)
    await page.goto(running.url)
    assert await page.locator("#nodes-section").is_hidden(), "one machine alone"
    await page.evaluate(SHOW, view)
    rows = await page.locator("#nodes tbody tr").all_inner_texts()
    assert len(rows) == 2
    assert f"{first.name} (here)" in rows[0]
    assert second.name in rows[1]
    assert [row.count("live") for row in rows] == [1, 1]
    assert sum("…000007" in row for row in rows) == 1
    assert await page.locator("#nodes-text").inner_text() == "15 of 16 slots free, 0 waiting."
    assert f"from {second.name} to {first.name}, 25 steps" in await page.locator("#moves li").inner_text()
    await page.evaluate(SHOW, {**view, "cut_off": True})
    assert "NATS is away" in await page.locator("#nodes-text").inner_text()
    await page.evaluate(SHOW, None)
    assert await page.locator("#nodes-section").is_hidden()
