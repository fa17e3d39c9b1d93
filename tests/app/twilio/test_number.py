"""Pointing our number at the service and back, against the fake of Twilio's REST API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from app.twilio.number import NumberOverride, NumberRefused, Pointed, SavedWebhook, restored
from app.twilio.rest import Destination, TwilioRest, Webhook
from app.twilio.rest_http import ATTEMPTS, RestError
from tests.twilio_rest.account import UNAVAILABLE, Account, OwnedNumber
from tests.twilio_rest.server import FakeRest, serving_rest

SID, TOKEN, OURS = "AC" + "3" * 32, "the-rest-token", "+15550100000"
FIRST, SECOND = "https://first.example.com", "https://second.example.com"
BEFORE = OwnedNumber(OURS, "https://old.example.com/v", "GET", "https://old.example.com/s", "GET")


@dataclass
class Twilio:
    fake: FakeRest
    file: Path

    def __post_init__(self) -> None:
        self.override = self.next_start()

    def next_start(self) -> NumberOverride:
        """Return the override of a service that has just started."""
        rest = TwilioRest(SID, TOKEN, self.fake.url, no_sleep)
        return NumberOverride(rest, OURS, SavedWebhook(self.file))

    @property
    def number(self) -> OwnedNumber:
        return self.fake.account.numbers[0]

    @property
    def changes(self) -> int:
        return [asked for asked, _ in self.fake.asked].count("POST IncomingPhoneNumbers")


@pytest_asyncio.fixture
async def twilio(tmp_path: Path) -> AsyncIterator[Twilio]:
    async with serving_rest(Account(SID, TOKEN, numbers=[OwnedNumber(**vars(BEFORE))])) as fake:
        yield Twilio(fake, tmp_path / "state" / "number.json")


async def no_sleep(_: float) -> None:
    pass


async def test_the_number_leads_to_us_and_back_to_its_first_values_even_after_a_change_of_address(
    twilio: Twilio,
) -> None:
    for address in (FIRST, SECOND):
        await twilio.override.point(address)
        assert twilio.number.voice_url == f"{address}/twilio/voice"
        assert twilio.number.status_callback == f"{address}/twilio/status"
        assert (twilio.number.voice_method, twilio.number.status_callback_method) == ("POST", "POST")
    await twilio.override.restore()
    assert twilio.number == BEFORE


@pytest.mark.parametrize("killed", [False, True])
async def test_what_somebody_set_meanwhile_stays(twilio: Twilio, killed: bool) -> None:
    await twilio.override.point(FIRST)
    twilio.number.voice_url = "https://theirs.example.com/v"
    override = twilio.next_start() if killed else twilio.override
    await override.point(SECOND)
    await override.restore()
    assert twilio.number.voice_url == "https://theirs.example.com/v"
    assert twilio.number.status_callback == BEFORE.status_callback


async def test_nothing_is_put_back_twice_and_nothing_is_set_that_stands(twilio: Twilio) -> None:
    await twilio.override.point(FIRST)
    await twilio.override.point(FIRST)
    assert twilio.changes == 1
    await twilio.override.restore()
    await twilio.override.restore()
    assert twilio.changes == 2


async def test_a_number_that_was_never_pointed_is_not_touched(twilio: Twilio) -> None:
    await twilio.override.restore()
    assert twilio.fake.asked == []


@pytest.mark.parametrize("opens", [True, False])
async def test_after_a_kill_the_first_values_come_back_at_the_end_of_the_next_service(
    twilio: Twilio, opens: bool
) -> None:
    await twilio.override.point(FIRST)
    revived = twilio.next_start()
    if opens:
        await revived.point(SECOND)
    await revived.restore()
    assert twilio.number == BEFORE
    assert not twilio.file.exists()


async def test_a_file_for_another_number_is_left_aside(twilio: Twilio) -> None:
    await twilio.override.point(FIRST)
    twilio.file.write_text(twilio.file.read_text().replace(OURS, "+15550100009"))
    await twilio.next_start().restore()
    assert twilio.number.voice_url == f"{FIRST}/twilio/voice"


async def test_the_file_is_for_this_user_alone_and_garbage_in_its_place_does_no_harm(twilio: Twilio) -> None:
    await twilio.override.point(FIRST)
    assert twilio.file.stat().st_mode & 0o077 == 0
    for garbage in (b"", b"\xff", b"{}", b"[1]", twilio.file.read_bytes()[:-3]):
        twilio.file.write_bytes(garbage)
        await twilio.next_start().restore()
    assert twilio.number.voice_url == f"{FIRST}/twilio/voice"


async def test_without_a_place_for_the_file_the_number_is_pointed_all_the_same(twilio: Twilio) -> None:
    twilio.file.parent.touch()
    await twilio.override.point(FIRST)
    assert twilio.number.voice_url == f"{FIRST}/twilio/voice"
    await twilio.override.restore()
    assert twilio.number == BEFORE


async def test_a_number_that_was_given_up_meanwhile_is_left_alone(twilio: Twilio) -> None:
    await twilio.override.point(FIRST)
    twilio.fake.account.numbers.clear()
    await twilio.override.restore()
    assert twilio.changes == 1


async def test_a_request_whose_answer_was_lost_is_undone_as_well(twilio: Twilio) -> None:
    twilio.fake.faults["POST IncomingPhoneNumbers"].extend([UNAVAILABLE] * ATTEMPTS)
    with pytest.raises(RestError):
        await twilio.override.point(FIRST)
    twilio.number.voice_url = f"{FIRST}/twilio/voice"  # it was carried out after all
    await twilio.override.restore()
    assert twilio.number == BEFORE


async def test_a_request_that_was_cut_short_does_not_overtake_the_one_that_undoes_it(twilio: Twilio) -> None:
    pointing = asyncio.create_task(twilio.override.point(FIRST))
    while twilio.override._leading is None:  # noqa: ASYNC110 - this very moment is wanted
        await asyncio.sleep(0)
    pointing.cancel()
    await twilio.override.restore()
    assert twilio.changes == 2
    assert twilio.number == BEFORE


@pytest.mark.parametrize(
    ("field", "sid", "named"),
    [
        ("voice_application_sid", "AP1", "TwiML application .AP1."),
        ("trunk_sid", "TK1", "SIP trunk .TK1."),
        ("phone_number", "+15559999999", "not this account's"),
    ],
)
async def test_a_number_that_would_not_lead_to_us_is_refused_and_not_touched(
    twilio: Twilio, field: str, sid: str, named: str
) -> None:
    setattr(twilio.number, field, sid)
    with pytest.raises(NumberRefused, match=named) as caught:
        await twilio.override.point(FIRST)
    assert twilio.changes == 0
    assert "\n" not in str(caught.value)
    assert OURS not in str(caught.value)


webhooks = st.builds(Webhook, st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["GET", "POST"]))
destinations = st.builds(Destination, webhooks, webhooks)


@given(now=destinations, ours=destinations, before=destinations)
def test_each_value_goes_back_exactly_if_it_is_ours(now: Destination, ours: Destination, before: Destination) -> None:
    after = restored(now, Pointed(ours, before))
    assert after.voice == (before.voice if now.voice.url == ours.voice.url else now.voice)
    assert after.status == (before.status if now.status.url == ours.status.url else now.status)
