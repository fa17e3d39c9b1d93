"""Keeps a public address open: tunnel, proof, number; and all of it again when the tunnel is lost.

Calls that run are left alone throughout.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import assert_never

from app.http.selftest import NotProved
from app.server.cloudflared import Cloudflared
from app.server.number_override import NumberKeeper
from app.server.tunnel_states import Patience, Prove, Restart, State, TunnelCourse, Wait, back_off_s
from app.twilio.public_address import PublicAddress

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class TunnelKeeper:
    """Runs cloudflared, and opens the public address whenever a signed socket comes back through it.

    `start` starts one cloudflared, `prove` sends the socket (raises NotProved), `number` is pointed when there is one.
    """

    def __init__(
        self,
        public: PublicAddress,
        start: Callable[[], Awaitable[Cloudflared]],
        prove: Callable[[str], Awaitable[None]],
        number: NumberKeeper | None = None,
        patience: Patience | None = None,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._public = public
        self._start = start
        self._prove = prove
        self._number = number
        self._patience = patience
        self._look_every_s = look_every_s

    async def run(self) -> None:
        """Keep the address open until cancelled."""
        failures = 0
        while True:
            reason, was_open = await self._live_once()
            self._public.is_open = False
            failures = 0 if was_open else failures + 1
            pause_s = back_off_s(failures)
            log.warning("the tunnel is gone (%s), again in %.0f s", reason, pause_s)
            await asyncio.sleep(pause_s)

    async def _live_once(self) -> tuple[str, bool]:
        """Run one cloudflared to its end; return why it ended and whether calls could come meanwhile."""
        try:
            tunnel = await self._start()
        except OSError as error:
            return f"cannot start: {error.strerror}", False
        log.info("cloudflared is started")
        course = TunnelCourse(time.monotonic(), self._patience)
        was_open = False
        try:
            while not await tunnel.died_within(self._look_every_s):
                match course.see(await tunnel.look(), time.monotonic()):
                    case Wait():
                        pass
                    case Prove(url):
                        await self._try(course, url)
                        was_open |= course.state is State.OPEN
                    case Restart(reason):
                        return reason, was_open
                    case step:
                        assert_never(step)
            return f"it died: {tunnel.last_words}", was_open
        finally:
            await tunnel.stop()

    async def _try(self, course: TunnelCourse, url: str) -> None:
        if url != self._public.base_url:
            self._public.is_open = False
            self._public.move(url)
        try:
            await self._prove(url)
        except NotProved as error:
            course.disproved(time.monotonic())
            log.warning("not open yet: %s", error)
            return
        course.proved(time.monotonic())
        if not self._public.is_open:
            self._public.is_open = True
            log.info("the tunnel is open: %s/twilio/voice leads here", url)
            if self._number:
                await self._number.point(url)
