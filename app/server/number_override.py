"""When the Twilio number is pointed at this service, and when it is restored."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from app.http.selftest import ProbeFailed
from app.server.tunnel_state import backoff_s

log = logging.getLogger(__name__)

RESTORE_WITHIN_S = 10.0


class PointableNumber(Protocol):
    """The Twilio number. `point` may be called again with another URL, and may be cancelled.

    `restore` puts back what was before the first `point`, unless somebody else has changed it since.
    """

    async def point(self, base_url: str) -> None: ...

    async def restore(self) -> None: ...


@dataclass
class NumberManager:
    """Points the number once the service is ready, until it succeeds; restores it once.

    `retried` are the errors of `number` after which another try may succeed.
    """

    number: PointableNumber
    retried: tuple[type[Exception], ...]
    service_ready: Callable[[], Awaitable[object]]
    _pointing: "asyncio.Task[None] | None" = field(default=None, init=False)
    _restoring: "asyncio.Task[None] | None" = field(default=None, init=False)

    async def point(self, base_url: str) -> None:
        """Start to point it at `base_url`, in place of an earlier URL."""
        await self._stop_pointing()
        if not self._restoring:
            self._pointing = asyncio.create_task(self._point(base_url))
            self._pointing.add_done_callback(_log_failure)

    async def restore(self) -> None:
        """Restore it, once; `point` does nothing afterwards. When cancelled, still waits until that is done."""
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
        """Restore it within `RESTORE_WITHIN_S`; a signal that cancels every task starts it again."""
        until_s = asyncio.get_running_loop().time() + RESTORE_WITHIN_S
        while True:
            try:
                async with asyncio.timeout_at(until_s):
                    await self._stop_pointing()
                    await self.number.restore()
            except asyncio.CancelledError:
                continue
            except TimeoutError:
                log.error("the number is not put back: Twilio does not answer")
            except self.retried as error:
                log.error("the number is not put back: %s", error)
            return

    async def _point(self, base_url: str) -> None:
        await self.service_ready()
        await _retry(self.number.point, base_url, self.retried, logging.ERROR, "the number does not lead here")
        log.info("the number leads to %s/twilio/voice", base_url)

    async def _stop_pointing(self) -> None:
        if self._pointing:
            self._pointing.cancel()
            await asyncio.wait({self._pointing})
            self._pointing = None


async def set_number_once_reachable(url: str, probe: Callable[[str], Awaitable[None]], number: NumberManager) -> None:
    """Point the number at a public URL that needs no tunnel of ours, once a probe has come back."""
    await _retry(probe, url, (ProbeFailed,), logging.WARNING, "the number stays as it is")
    await number.point(url)


async def _retry(
    run: Callable[[str], Awaitable[None]], url: str, retried: tuple[type[Exception], ...], level: int, message: str
) -> None:
    """Run with `url` until it succeeds; log each of the `retried` errors."""
    for failures in itertools.count():
        try:
            await run(url)
            return
        except retried as error:
            pause_s = backoff_s(failures)
            log.log(level, "%s: %s; again in %.0f s", message, error, pause_s)
            await asyncio.sleep(pause_s)


def _log_failure(pointing: "asyncio.Task[None]") -> None:
    """Log an error that is not retried: nothing waits for this task."""
    if not pointing.cancelled() and (error := pointing.exception()):
        log.critical("the number does not lead here", exc_info=error)
