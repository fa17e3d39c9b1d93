import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from app.http.selftest import ProbeFailed
from app.server import number_override as module
from app.server.number_override import NumberManager, set_number_once_reachable
from tests.app.calls.front import settle
from tests.processes.pipeline import PATIENCE_S
from tests.tunnel.number import BEFORE, FakeNumber, NumberTrouble

ONE, TWO = "https://one.example.com", "https://two.example.com"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backoff_s", lambda failures: 0.0)


async def ready() -> None:
    pass


def manage(number: FakeNumber, service_ready: Callable[[], Awaitable[object]] = ready) -> NumberManager:
    return NumberManager(number, (NumberTrouble,), service_ready)


async def test_the_number_is_pointed_once_the_service_can_answer_at_the_last_address() -> None:
    number, self_tested = FakeNumber(), asyncio.Event()
    manager = manage(number, self_tested.wait)
    await manager.point(ONE)
    await settle()
    await manager.point(TWO)
    await settle()
    assert number.leads_to == BEFORE
    self_tested.set()
    assert await number.next_url() == TWO
    assert number.pointed.empty()


async def test_pointing_is_tried_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    number = FakeNumber(troubles=["Twilio is away", "Twilio is away"])
    with caplog.at_level(logging.INFO):
        await manage(number).point(ONE)
        assert await number.next_url() == ONE
    assert caplog.text.count("the number does not lead here: Twilio is away") == 2


async def test_after_the_number_is_restored_it_is_pointed_no_more() -> None:
    number = FakeNumber()
    manager = manage(number)
    await manager.point(ONE)
    await number.next_url()
    await manager.restore()
    await manager.restore()
    await manager.point(TWO)
    await settle()
    assert (number.leads_to, number.restored) == (BEFORE, 1)


async def test_restoring_goes_to_its_end_though_the_task_that_waits_is_cancelled() -> None:
    number = FakeNumber()
    number.may_restore.clear()
    waiting = asyncio.create_task(manage(number).restore())
    await number.restoring.wait()
    waiting.cancel()
    number.may_restore.set()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert number.restored == 1


async def test_restoring_goes_to_its_end_though_every_task_is_cancelled() -> None:
    """As the event loop does when a second signal ends it."""
    number = FakeNumber()
    number.may_restore.clear()
    waiting = asyncio.create_task(manage(number).restore())
    await number.restoring.wait()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    number.restoring.clear()
    async with asyncio.timeout(PATIENCE_S):
        await number.restoring.wait()
        number.may_restore.set()
        await asyncio.wait({waiting})
    assert (number.leads_to, number.restored) == (BEFORE, 1)


@pytest.mark.parametrize(
    ("troubles", "reason"), [(["20003, wrong token"], "20003, wrong token"), ([], "Twilio does not answer")]
)
async def test_a_number_that_cannot_be_restored_is_logged_and_does_not_block_the_exit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, troubles: list[str], reason: str
) -> None:
    number = FakeNumber(troubles)
    if not troubles:
        monkeypatch.setattr(module, "RESTORE_WITHIN_S", 0.01)
        number.may_restore.clear()
    await manage(number).restore()
    assert f"the number is not put back: {reason}" in caplog.text


async def test_a_public_url_without_a_tunnel_is_probed_before_the_number_is_pointed_at_it() -> None:
    number, probed = FakeNumber(), []

    async def probe(url: str) -> None:
        assert number.leads_to == BEFORE
        probed.append(url)
        if len(probed) < 3:
            raise ProbeFailed("no such host")

    await set_number_once_reachable(ONE, probe, manage(number))
    assert await number.next_url() == ONE
    assert probed == [ONE] * 3


async def test_any_other_error_is_logged_by_pointing_and_raised_by_restoring(caplog: pytest.LogCaptureFixture) -> None:
    manager = NumberManager(FakeNumber(troubles=["a bug", "another bug"]), (), ready)
    await manager.point(ONE)
    await settle()
    [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert record.exc_info
    assert str(record.exc_info[1]) == "a bug"
    with pytest.raises(NumberTrouble, match="another bug"):
        await manager.restore()
