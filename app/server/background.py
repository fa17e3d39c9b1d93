"""Background tasks: one that fails, or ends too early, ends the service in order."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

Run = Callable[[], Coroutine[Any, Any, None]]


class EndedEarly(Exception):
    """A task that runs until it is cancelled has returned."""


class TaskFailed(Exception):
    """A part of the service has failed, as the log says; the message names it."""


@dataclass
class BackgroundTasks:
    """Runs tasks in a task group; calls `stop` when one of them, or a thread, has failed.

    `user_errors` are no bugs and are not logged here.
    """

    group: asyncio.TaskGroup
    stop: Callable[[], None]
    user_errors: tuple[type[Exception], ...]
    failure: Exception | None = None

    def start(self, name: str, run: Run) -> "asyncio.Task[None]":
        return self.group.create_task(self._watch(name, run), name=name)

    def fail(self, name: str, error: Exception) -> None:
        """Log the error, keep the first one, and stop."""
        if not isinstance(error, self.user_errors):
            log.critical("%s has failed, the service stops", name, exc_info=error)
            error = TaskFailed(f"{name} has failed: {error!r}")
        self.failure = self.failure or error
        self.stop()

    @contextlib.contextmanager
    def watch_threads(self) -> Iterator[None]:
        """Treat an exception that ends a thread as a failure."""
        loop, before = asyncio.get_running_loop(), threading.excepthook

        def hook(failed: threading.ExceptHookArgs) -> None:
            before(failed)
            if isinstance(failed.exc_value, Exception):
                name = failed.thread.name if failed.thread else "a thread"
                loop.call_soon_threadsafe(self.fail, f"thread {name}", failed.exc_value)

        threading.excepthook = hook
        try:
            yield
        finally:
            threading.excepthook = before

    async def _watch(self, name: str, run: Run) -> None:
        try:
            await run()
        except Exception as error:  # the root of this task
            self.fail(name, error)


async def endless(run: Run) -> None:
    await run()
    raise EndedEarly("it has returned")


async def cancel(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
