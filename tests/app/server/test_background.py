import asyncio
import threading
from functools import partial

import pytest

from app.config import SettingsError
from app.server.background import BackgroundTasks, EndedEarly, Run, TaskFailed, cancel, endless


async def nothing() -> None:
    pass


async def forever() -> None:
    await asyncio.Event().wait()


def raises(error: Exception) -> Run:
    async def run() -> None:
        raise error

    return run


async def test_a_task_that_fails_stops_the_service_and_the_others_go_on() -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop.set, ())
        other = tasks.start("another", forever)
        tasks.start("the clock", raises(RuntimeError("a bug")))
        await stop.wait()
        assert not other.done()
        await cancel(other)
    assert isinstance(tasks.failure, TaskFailed)
    assert str(tasks.failure) == "the clock has failed: RuntimeError('a bug')"


async def test_a_task_may_end_or_be_cancelled_but_an_endless_one_may_not_return() -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop.set, ())
        tasks.start("a start", nothing)
        await cancel(tasks.start("the clock", partial(endless, forever)))
        assert (tasks.failure, stop.is_set()) == (None, False)
        tasks.start("the clock", partial(endless, nothing))
    assert EndedEarly.__name__ in str(tasks.failure)
    assert stop.is_set()


async def test_a_user_error_is_passed_on_as_it_is_and_the_first_failure_counts() -> None:
    stop, wrong = asyncio.Event(), SettingsError("PORT: wrong")
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop.set, (SettingsError,))
        tasks.start("the start", raises(wrong))
        await stop.wait()
        tasks.start("another", raises(RuntimeError("later")))
    assert tasks.failure is wrong


async def test_a_thread_that_fails_stops_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: seen.append(str(hook.exc_value)))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = BackgroundTasks(group, stop.set, ())
        with tasks.watch_threads():
            threading.Thread(target=lambda: 1 / 0, name="writer").start()
            async with asyncio.timeout(30):
                await stop.wait()
    assert "thread writer has failed" in str(tasks.failure)
    assert seen == ["division by zero"]
