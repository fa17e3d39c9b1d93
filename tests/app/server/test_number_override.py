import asyncio
import logging

import pytest

from app.http.selftest import ProbeFailed
from app.server import number_override as module
from app.server.number_override import NumberManager, set_number_once_reachable
from tests.processes.pipeline import PATIENCE_S
from tests.tunnel.number import BEFORE, FakeNumber, NumberTrouble

ONE, TWO = "https://one.example.com", "https://two.example.com"


@pytest.fixture(autouse=True)
def _without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backoff_s", lambda failures: 0.0)


async def ready() -> None:
    pass


async def next_url(number: FakeNumber) -> str:
    async with asyncio.timeout(PATIENCE_S):
        return await number.pointed.get()


async def test_a_number_is_not_pointed_at_a_service_that_cannot_answer_yet() -> None:
    number, self_tested = FakeNumber(), asyncio.Event()
    keeper = NumberManager(number, (NumberTrouble,), self_tested.wait)
    await keeper.point(ONE)
    for _ in range(10):
        await asyncio.sleep(0)
    assert number.leads_to == BEFORE
    self_tested.set()
    assert await next_url(number) == ONE


async def test_pointing_is_tried_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    number = FakeNumber(troubles=["Twilio is away", "Twilio is away"])
    with caplog.at_level(logging.INFO):
        await NumberManager(number, (NumberTrouble,), ready).point(ONE)
        assert await next_url(number) == ONE
    assert caplog.text.count("the number does not lead here: Twilio is away") == 2


async def test_a_new_address_takes_the_place_of_one_that_still_waits() -> None:
    number, self_tested = FakeNumber(), asyncio.Event()
    keeper = NumberManager(number, (NumberTrouble,), self_tested.wait)
    await keeper.point(ONE)
    await keeper.point(TWO)
    self_tested.set()
    assert await next_url(number) == TWO
    assert number.pointed.empty()


async def test_after_the_number_is_put_back_it_is_pointed_no_more() -> None:
    number = FakeNumber()
    keeper = NumberManager(number, (NumberTrouble,), ready)
    await keeper.point(ONE)
    await next_url(number)
    await keeper.restore()
    await keeper.restore()
    await keeper.point(TWO)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (number.leads_to, number.restored) == (BEFORE, 1)


async def test_putting_back_goes_to_its_end_though_who_asked_is_cancelled() -> None:
    number = FakeNumber()
    number.may_restore.clear()
    keeper = NumberManager(number, (NumberTrouble,), ready)
    asking = asyncio.create_task(keeper.restore())
    await number.restoring.wait()
    asking.cancel()
    number.may_restore.set()
    await asyncio.wait({asking})
    assert asking.cancelled()
    assert number.restored == 1


async def test_putting_back_goes_to_its_end_though_every_task_is_cancelled() -> None:
    """As the event loop does when a second signal ends it."""
    number = FakeNumber()
    number.may_restore.clear()
    asking = asyncio.create_task(NumberManager(number, (NumberTrouble,), ready).restore())
    await number.restoring.wait()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    number.restoring.clear()
    async with asyncio.timeout(PATIENCE_S):
        await number.restoring.wait()
        number.may_restore.set()
        await asyncio.wait({asking})
    assert (number.leads_to, number.restored) == (BEFORE, 1)


async def test_a_number_that_cannot_be_put_back_is_told_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    await NumberManager(FakeNumber(troubles=["20003, wrong token"]), (NumberTrouble,), ready).restore()
    assert "the number is not put back: 20003, wrong token" in caplog.text


async def test_a_twilio_that_does_not_answer_holds_up_no_exit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RESTORE_WITHIN_S", 0.01)
    number = FakeNumber()
    number.may_restore.clear()
    await NumberManager(number, (NumberTrouble,), ready).restore()
    assert "the number is not put back: Twilio does not answer" in caplog.text


async def test_a_public_url_without_a_tunnel_is_proved_before_the_number_is_pointed_at_it() -> None:
    number, proofs = FakeNumber(), []

    async def probe(url: str) -> None:
        assert number.leads_to == BEFORE
        proofs.append(url)
        if len(proofs) < 3:
            raise ProbeFailed("no such host")

    await set_number_once_reachable(ONE, probe, NumberManager(number, (NumberTrouble,), ready))
    assert await next_url(number) == ONE
    assert proofs == [ONE] * 3


async def test_an_error_that_nobody_has_foreseen_is_logged_when_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    number = FakeNumber(troubles=["a bug"])
    keeper = NumberManager(number, (), ready)
    await keeper.point(ONE)
    for _ in range(10):
        await asyncio.sleep(0)
    [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert record.exc_info
    assert str(record.exc_info[1]) == "a bug"


async def test_an_error_that_nobody_has_foreseen_is_raised_by_the_restoring() -> None:
    with pytest.raises(NumberTrouble, match="a bug"):
        await NumberManager(FakeNumber(troubles=["a bug"]), (), ready).restore()
