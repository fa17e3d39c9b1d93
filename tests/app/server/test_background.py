import asyncio
import threading
from functools import partial

import pytest

from app.config import SettingsError
from app.server.background import BackgroundTasks, EndedEarly, Run, ServiceFailed, cancel, endless


class Stopped:
    """A service's stop, and whether it was called."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.event.set()


async def nothing() -> None:
    pass


async def forever() -> None:
    await asyncio.Event().wait()


def raises(error: Exception) -> Run:
    async def run() -> None:
        raise error

    return run


async def test_a_task_that_fails_stops_the_service_and_the_others_go_on() -> None:
    stop = Stopped()
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop, ())
        other = tasks.start("another", forever)
        tasks.start("the clock", raises(RuntimeError("a bug")))
        await stop.event.wait()
        assert not other.done()
        await cancel(other)
    assert isinstance(tasks.failure, ServiceFailed)
    assert str(tasks.failure) == "the clock has failed: RuntimeError('a bug')"


async def test_a_task_that_should_run_for_ever_fails_when_it_returns() -> None:
    stop = Stopped()
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop, ())
        tasks.start("the clock", partial(endless, nothing))
    assert EndedEarly.__name__ in str(tasks.failure)
    assert stop.event.is_set()


async def test_a_task_that_is_done_or_cancelled_has_not_failed() -> None:
    stop = Stopped()
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop, ())
        tasks.start("a start", nothing)
        await cancel(tasks.start("the clock", partial(endless, forever)))
    assert (tasks.failure, stop.event.is_set()) == (None, False)


async def test_what_is_no_bug_is_handed_on_as_it_is_and_the_first_failure_counts() -> None:
    stop, wrong = Stopped(), SettingsError("PORT: wrong")
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop, (SettingsError,))
        tasks.start("the start", raises(wrong))
        await stop.event.wait()
        tasks.start("another", raises(RuntimeError("later")))
    assert tasks.failure is wrong


async def test_a_thread_that_fails_stops_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: seen.append(str(hook.exc_value)))
    stop = Stopped()
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop, ())
        restore = tasks.watch_threads()
        threading.Thread(target=lambda: 1 / 0, name="writer").start()
        async with asyncio.timeout(30):
            await stop.event.wait()
        restore()
    assert "thread writer has failed" in str(tasks.failure)
    assert seen == ["division by zero"]
