"""Keeps a public address open: starts cloudflared, probes the address, sets the number, and starts over when it ends.

Running calls are not touched.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.http.selftest import ProbeFailed
from app.server.cloudflared import Cloudflared
from app.server.number_override import NumberManager
from app.server.tunnel_state import TunnelState, TunnelStateMachine, TunnelTimeouts, backoff_s
from app.twilio.public_address import PublicAddress

log = logging.getLogger(__name__)

STATUS_EVERY_S = 1.0


@dataclass(frozen=True)
class TunnelManager:
    """Opens the public address once a signed socket has come back through cloudflared."""

    public: PublicAddress
    start: Callable[[], Awaitable[Cloudflared]]
    probe: Callable[[str], Awaitable[None]]
    number: NumberManager | None = None
    timeouts: TunnelTimeouts | None = None
    status_every_s: float = STATUS_EVERY_S

    async def run(self) -> None:
        failures = 0
        while True:
            reason, was_open = await self._run_once()
            self.public.is_open = False
            failures = 0 if was_open else failures + 1
            pause_s = backoff_s(failures)
            log.warning("the tunnel is gone (%s), again in %.0f s", reason, pause_s)
            await asyncio.sleep(pause_s)

    async def _run_once(self) -> tuple[str, bool]:
        """Run one cloudflared to its end; return why it ended and whether the address was open meanwhile."""
        try:
            tunnel = await self.start()
        except OSError as error:
            return f"cannot start: {error.strerror}", False
        log.info("cloudflared is started")
        machine, was_open = TunnelStateMachine(time.monotonic(), self.timeouts), False
        try:
            while not await tunnel.exited_within(self.status_every_s):
                url = machine.on_status(await tunnel.status(), time.monotonic())
                if reason := machine.overdue(time.monotonic()):
                    return reason, was_open
                if url:
                    machine.on_probe(await self._open(url), time.monotonic())
                    was_open |= machine.state is TunnelState.OPEN
            return f"it died: {tunnel.last_error}", was_open
        finally:
            await tunnel.stop()

    async def _open(self, url: str) -> bool:
        """Probe `url`; open the address and set the number if it leads here."""
        if url != self.public.base_url:
            self.public.is_open = False
            self.public.move(url)
        try:
            await self.probe(url)
        except ProbeFailed as error:
            log.warning("not open yet: %s", error)
            return False
        if not self.public.is_open:
            self.public.is_open = True
            log.info("the tunnel is open: %s/twilio/voice leads here", url)
            if self.number:
                await self.number.point(url)
        return True
