"""The Twilio number, led here while the service runs and put back when it ends.

What speaks with Twilio is behind `NumberPointer`; here is decided when.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from app.http.selftest import NotProved
from app.server.tunnel_states import back_off_s

log = logging.getLogger(__name__)

RESTORE_WITHIN_S = 10.0


class NumberPointer(Protocol):
    """The Twilio number, which can be pointed at a public URL and put back.

    Both raise what its maker has named; the message is one line that says why and what to do. A `point` may be
    cancelled in the midst of it.
    """

    async def point(self, base_url: str) -> None:
        """Let calls come to `base_url`. May be called again with another URL."""

    async def restore(self) -> None:
        """Put back what was before the first `point`, if it is still ours."""


class NumberKeeper:
    """Points the number once the service is ready, until it succeeds; puts it back once.

    `troubles` are the errors of `number` that another try may mend.
    """

    def __init__(
        self,
        number: NumberPointer,
        troubles: tuple[type[Exception], ...],
        service_ready: Callable[[], Awaitable[object]],
    ) -> None:
        self._number = number
        self._troubles = troubles
        self._service_ready = service_ready
        self._pointing: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None

    async def point(self, base_url: str) -> None:
        """Begin to point it at `base_url`, in place of what was begun before."""
        await self._give_up()
        if not self._restoring:
            self._pointing = asyncio.create_task(self._point(base_url))
            self._pointing.add_done_callback(_report)

    async def restore(self) -> None:
        """Put it back, once; from then on `point` does nothing. Ends, even when cancelled, only when that is over."""
        self._restoring = self._restoring or asyncio.create_task(self._restore())
        cancelled: asyncio.CancelledError | None = None
        while not self._restoring.done():
            try:
                await asyncio.wait({self._restoring})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled:
            raise cancelled
        self._restoring.result()

    async def _restore(self) -> None:
        """Put it back within `RESTORE_WITHIN_S`; a signal that cancels every task only begins it anew."""
        until_s = asyncio.get_running_loop().time() + RESTORE_WITHIN_S
        while True:
            try:
                async with asyncio.timeout_at(until_s):
                    await self._give_up()
                    await self._number.restore()
            except asyncio.CancelledError:
                continue
            except TimeoutError:
                log.error("the number is not put back: Twilio does not answer")
            except self._troubles as error:
                log.error("the number is not put back: %s", error)
            return

    async def _point(self, base_url: str) -> None:
        await self._service_ready()
        failures = 0
        while True:
            try:
                await self._number.point(base_url)
            except self._troubles as error:
                pause_s = back_off_s(failures)
                failures += 1
                log.error("the number does not lead here: %s; again in %.0f s", error, pause_s)
                await asyncio.sleep(pause_s)
            else:
                log.info("the number leads to %s/twilio/voice", base_url)
                return

    async def _give_up(self) -> None:
        if self._pointing:
            self._pointing.cancel()
            await asyncio.wait({self._pointing})
            self._pointing = None


def _report(pointing: "asyncio.Task[None]") -> None:
    """Log an error that `troubles` does not name: nothing waits for this task."""
    if not pointing.cancelled() and (error := pointing.exception()):
        log.critical("the number does not lead here", exc_info=error)


async def keep_pointed(url: str, prove: Callable[[str], Awaitable[None]], number: NumberKeeper) -> None:
    """Point the number at a public URL that needs no tunnel of ours, once it is proved."""
    failures = 0
    while True:
        try:
            await prove(url)
        except NotProved as error:
            pause_s = back_off_s(failures)
            failures += 1
            log.warning("the number stays as it is: %s; again in %.0f s", error, pause_s)
            await asyncio.sleep(pause_s)
        else:
            await number.point(url)
            return
