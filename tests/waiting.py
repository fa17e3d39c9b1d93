"""Waiting for what threads and other processes do, which give no sign."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.processes.pipeline import PATIENCE_S

LOOK_AGAIN_S = 0.02


async def until(ask: Callable[[], Any], look_again_s: float = LOOK_AGAIN_S, within_s: float = PATIENCE_S) -> Any:
    """Ask until the answer, which may be a coroutine's, is true; return it."""
    async with asyncio.timeout(within_s):
        while True:
            answer = ask()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(look_again_s)
