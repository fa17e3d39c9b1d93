"""A Twilio number that a test watches."""

import asyncio
from dataclasses import dataclass, field

from tests.processes.pipeline import PATIENCE_S

BEFORE = "https://before.example.com/voice"


class NumberTrouble(Exception):
    """Twilio refuses."""


@dataclass
class FakeNumber:
    """Remembers where it was pointed; fails with `troubles`, one a call, first."""

    troubles: list[str] = field(default_factory=list)
    pointed: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    leads_to: str = BEFORE
    restored: int = 0
    restoring: asyncio.Event = field(default_factory=asyncio.Event)
    may_restore: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_restore.set()

    async def point(self, base_url: str) -> None:
        if self.troubles:
            raise NumberTrouble(self.troubles.pop(0))
        self.leads_to = base_url
        self.pointed.put_nowait(base_url)

    async def next_url(self) -> str:
        """Wait until it is pointed somewhere; return where."""
        return await asyncio.wait_for(self.pointed.get(), PATIENCE_S)

    async def restore(self) -> None:
        self.restoring.set()
        await self.may_restore.wait()
        if self.troubles:
            raise NumberTrouble(self.troubles.pop(0))
        self.leads_to = BEFORE
        self.restored += 1
