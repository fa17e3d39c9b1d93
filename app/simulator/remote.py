"""What the carrier's REST API does to a call that is on: end it, or redirect it to other TwiML."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndCall:
    """End the call."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Leave the stream or the queue and ask this URL for TwiML."""

    url: str


Order = EndCall | Redirect


class Remote:
    """Holds the order for one call, which carries it out within a packet. A later order replaces an earlier one."""

    def __init__(self) -> None:
        self._order: Order | None = None
        self._given = asyncio.Event()

    @property
    def ordered(self) -> bool:
        return self._order is not None

    def send(self, order: Order) -> None:
        self._order = order
        self._given.set()

    def pop(self) -> Order | None:
        """Return the order, once."""
        order, self._order = self._order, None
        self._given.clear()
        return order

    async def wait(self) -> None:
        """Return when there is an order."""
        await self._given.wait()
