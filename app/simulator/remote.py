"""What the carrier does to a call from outside it, as the REST API has it: end it, or send it to other TwiML."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndCall:
    """End the call."""


@dataclass(frozen=True, slots=True)
class FetchTwiml:
    """Leave what the call is at, ask this URL what to do."""

    url: str


@dataclass(frozen=True, slots=True)
class RunTwiml:
    """Leave what the call is at, follow this TwiML."""

    text: str


Order = EndCall | FetchTwiml | RunTwiml


class Remote:
    """The hand on one call: `give` it an order; the call takes it within a packet's time. A later order replaces it."""

    def __init__(self) -> None:
        """Begin without an order."""
        self._order: Order | None = None
        self._given = asyncio.Event()

    @property
    def ordered(self) -> bool:
        """Tell whether an order waits."""
        return self._order is not None

    def give(self, order: Order) -> None:
        """Order the call about."""
        self._order = order
        self._given.set()

    def take(self) -> Order | None:
        """Return the order that waits, once."""
        order, self._order = self._order, None
        self._given.clear()
        return order

    async def wait(self) -> Order:
        """Take the next order, once there is one: a call that is kept waiting has nothing else to do."""
        while (order := self.take()) is None:
            await self._given.wait()
        return order
