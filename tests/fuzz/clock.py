"""An event loop whose time passes only when nothing else is left to do: hours of timers in milliseconds."""

import asyncio
import selectors
from typing import Any


class _Skipping(selectors.DefaultSelector):
    """Does not wait, but notes how long it should have waited."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen again")
        if not ready and timeout:
            self.passed_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Counts seconds from 0; `errors` are what callbacks and forgotten tasks have raised."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, error: self.errors.append(error))

    def time(self) -> float:
        return self._skipping.passed_s
