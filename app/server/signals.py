"""The signals that end a program: SIGINT (Ctrl-C), SIGTERM and, unless ignored as under nohup, SIGHUP."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def stop_signals() -> tuple[signal.Signals, ...]:
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignores_hangup else (signal.SIGHUP,)))


def interrupt_on_stop() -> None:
    """Let each of them raise KeyboardInterrupt, so that a command ends what it has started."""
    for number in stop_signals():
        if number != signal.SIGINT:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


@contextlib.contextmanager
def handle_stop_signals(on_signal: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Call `on_signal` on the running event loop for each of them."""
    loop, before = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in stop_signals()}
    for number in before:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def run_until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop of its own; a signal cancels it and raises KeyboardInterrupt.

    `asyncio.Runner` cancels from the signal's own handler, between any two instructions: what reads a socket may have
    found its reader waiting, and then fails on it. A loop's handler runs between callbacks.
    """

    async def run() -> T:
        task = asyncio.create_task(work)
        with handle_stop_signals(lambda _: task.cancel()):
            return await task

    try:
        return uvloop.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
