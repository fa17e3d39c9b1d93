"""How the service stops without cutting a call off.

Once draining begins, no new call is accepted, and those that are on go on. When the last one has ended, or the time is
over and what Moshi was saying in the others has been played, the service stops. Where there are other nodes, those that
are left are moved to them first.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from app.calls.manager import CallManager
from app.calls.session import DRAIN_WITHIN_S

log = logging.getLogger(__name__)

SPARE_S = 1.0
"""Beyond what the last sentences take."""


class Drain:
    """`run` waits for `begin`, or until somebody else sets `begun`, then for the calls, and stops the service.

    `move` has other nodes go on with the calls that are on then.
    """

    def __init__(
        self,
        manager: CallManager,
        limit_s: float,
        begun: asyncio.Event,
        move: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.limit_s = limit_s
        """How long calls that are on may go on."""
        self._move = move
        self._manager = manager
        self._begun = begun

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self, limit_s: float | None = None) -> None:
        """Accept no more calls; stop when those that are on have ended or `limit_s` is over. Twice does no harm."""
        if self.begun:
            return
        self.limit_s = self.limit_s if limit_s is None else limit_s
        log.info("draining: %d on the line, for at most %d s", self._manager.active_calls, self.limit_s)
        self._manager.stop_accepting()
        self._begun.set()

    async def run(self, stop: Callable[[], None]) -> None:
        await self._begun.wait()
        if self.limit_s:
            await self._wait_for_calls(self.limit_s)
        if self._move:
            await self._move()
        if self.limit_s or self._move:
            self._manager.drain_calls()
            await self._wait_for_calls(DRAIN_WITHIN_S + SPARE_S)
        stop()

    async def _wait_for_calls(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._manager.no_calls.wait()
