"""Pointing our number at the service and back, against the stand-in for Twilio's REST API."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from app.simulator.account import Account, OwnedNumber
from app.simulator.rest import RestStandIn, serving_rest
from app.twilio.number import Destination, NumberRefused, Pointed, Webhook, point, restore, restored
from app.twilio.rest import NumberSid, TwilioRest

SID, TOKEN, OURS = "AC" + "3" * 32, "the-rest-token", "+15550100000"
FIRST, SECOND = "https://first.example.com", "https://second.example.com"
BEFORE = OwnedNumber(OURS, "https://old.example.com/v", "GET", "https://old.example.com/s", "GET")


@dataclass
class Twilio:
    stand_in: RestStandIn
    rest: TwilioRest

    @property
    def number(self) -> OwnedNumber:
        return self.stand_in.account.numbers[0]

    @property
    def changes(self) -> int:
        return [asked for asked, _ in self.stand_in.asked].count("POST IncomingPhoneNumbers")


@pytest_asyncio.fixture
async def twilio() -> AsyncIterator[Twilio]:
    async with serving_rest(Account(SID, TOKEN, numbers=[OwnedNumber(**vars(BEFORE))])) as stand_in:
        yield Twilio(stand_in, TwilioRest(SID, TOKEN, stand_in.url))


async def test_the_number_leads_to_us_and_back(twilio: Twilio) -> None:
    pointed = await point(twilio.rest, OURS, FIRST)
    assert twilio.number.voice_url == f"{FIRST}/twilio/voice"
    assert twilio.number.status_callback == f"{FIRST}/twilio/status"
    assert (twilio.number.voice_method, twilio.number.status_callback_method) == ("POST", "POST")
    assert await restore(twilio.rest, pointed)
    assert twilio.number == BEFORE


async def test_a_number_that_led_nowhere_leads_nowhere_again(twilio: Twilio) -> None:
    twilio.number.voice_url = twilio.number.status_callback = ""
    await restore(twilio.rest, await point(twilio.rest, OURS, FIRST))
    assert (twilio.number.voice_url, twilio.number.status_callback) == ("", "")


async def test_after_a_change_of_address_the_first_values_come_back(twilio: Twilio) -> None:
    pointed = await point(twilio.rest, OURS, FIRST)
    pointed = await point(twilio.rest, OURS, SECOND, pointed)
    assert twilio.number.voice_url == f"{SECOND}/twilio/voice"
    await restore(twilio.rest, pointed)
    assert twilio.number == BEFORE


async def test_what_somebody_set_meanwhile_stays(twilio: Twilio) -> None:
    pointed = await point(twilio.rest, OURS, FIRST)
    twilio.number.voice_url = "https://theirs.example.com/v"
    assert await restore(twilio.rest, pointed)
    assert twilio.number.voice_url == "https://theirs.example.com/v"
    assert twilio.number.status_callback == BEFORE.status_callback


async def test_what_somebody_set_between_two_addresses_of_ours_is_what_comes_back(twilio: Twilio) -> None:
    pointed = await point(twilio.rest, OURS, FIRST)
    twilio.number.voice_url = "https://theirs.example.com/v"
    await restore(twilio.rest, await point(twilio.rest, OURS, SECOND, pointed))
    assert twilio.number.voice_url == "https://theirs.example.com/v"


async def test_nothing_is_put_back_twice_and_nothing_is_set_that_stands(twilio: Twilio) -> None:
    pointed = await point(twilio.rest, OURS, FIRST)
    await point(twilio.rest, OURS, FIRST, pointed)
    assert twilio.changes == 1
    assert await restore(twilio.rest, pointed)
    assert not await restore(twilio.rest, pointed)
    assert twilio.changes == 2


async def test_a_number_that_was_given_up_meanwhile_is_left_alone(twilio: Twilio) -> None:
    pointed = await point(twilio.rest, OURS, FIRST)
    twilio.stand_in.account.numbers.clear()
    assert not await restore(twilio.rest, pointed)


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
        await point(twilio.rest, OURS, FIRST)
    assert twilio.changes == 0
    assert "\n" not in str(caught.value)
    assert OURS not in str(caught.value)


webhooks = st.builds(Webhook, st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["GET", "POST"]))
destinations = st.builds(Destination, webhooks, webhooks)


@given(now=destinations, ours=destinations, before=destinations)
def test_each_value_goes_back_exactly_if_it_is_ours(now: Destination, ours: Destination, before: Destination) -> None:
    after = restored(now, Pointed(NumberSid("PN1"), OURS, ours, before))
    assert after.voice == (before.voice if now.voice == ours.voice else now.voice)
    assert after.status == (before.status if now.status == ours.status else now.status)
