"""The signals that end a program: SIGINT (Ctrl-C), SIGTERM and, unless ignored as under nohup, SIGHUP."""

import asyncio
import signal
from collections.abc import Callable
from typing import Self


def stop_signals() -> tuple[signal.Signals, ...]:
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignores_hangup else (signal.SIGHUP,)))


def interrupt_on_stop() -> None:
    """Let each of them raise KeyboardInterrupt, so that a command ends what it has started."""
    for number in stop_signals():
        if number != signal.SIGINT:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


class SignalHandler:
    """Calls `on_signal` on the running event loop for each of them; a context manager."""

    def __init__(self, on_signal: Callable[[signal.Signals], None]) -> None:
        self._on_signal = on_signal
        self._before = {number: signal.getsignal(number) for number in stop_signals()}

    def install(self) -> None:
        """Install the handlers, in place of uvicorn's if that has installed its own."""
        for number in self._before:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)
