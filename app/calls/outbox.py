"""What waits for a call's media socket."""

import asyncio
from collections import deque

from app.audio.playout import PlayoutCommand

OUTBOX_COMMANDS = 128
"""Ten seconds of frames. A socket that lets more wait is given up."""


class Outbox:
    """Commands on their way to the socket's writer."""

    def __init__(self) -> None:
        self.closed = False
        self._commands: deque[PlayoutCommand] = deque()
        self._changed = asyncio.Event()

    def put(self, command: PlayoutCommand) -> bool:
        """Add a command; False when there is no room."""
        if len(self._commands) == OUTBOX_COMMANDS:
            return False
        self._commands.append(command)
        self._changed.set()
        return True

    def pop(self) -> PlayoutCommand | None:
        """Return the next command, None if none waits."""
        return self._commands.popleft() if self._commands else None

    def close(self) -> None:
        """Drop what waits: after the end of a call nobody hears it."""
        self.closed = True
        self._commands.clear()
        self._changed.set()

    async def wait(self) -> bool:
        """Wait for commands; False once the outbox is closed."""
        if not (self._commands or self.closed):
            self._changed.clear()
            await self._changed.wait()
        return not self.closed
