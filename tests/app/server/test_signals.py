"""What Ctrl-C does to a command, and what it leaves alone."""

import asyncio
import signal

import pytest

from app.server.signals import run_until_stopped


def test_what_is_at_work_is_not_cancelled_in_the_middle_of_a_callback() -> None:
    """With asyncio's own handler the reader is cancelled under the hands of who found it waiting."""
    fed, before = list[bool](), signal.getsignal(signal.SIGINT)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        reader = loop.create_future()

        def feed() -> None:
            waiting = not reader.done()
            signal.raise_signal(signal.SIGINT)
            fed.append(waiting and not reader.done())

        loop.call_soon(feed)
        await reader

    with pytest.raises(KeyboardInterrupt):
        run_until_stopped(work())
    assert fed == [True]
    assert signal.getsignal(signal.SIGINT) == before
