"""What the doctor finds at the account, against the fake of Twilio's REST API."""

import asyncio
from collections.abc import Callable

import pytest

from app.cli.doctor.account import clock_finding, concurrency_finding, examine_account
from app.cli.doctor.finding import Finding, Severity
from app.config import read_settings
from app.twilio.rest import Account as AccountFacts
from tests.twilio_rest.account import Account, AccountType, OwnedNumber
from tests.twilio_rest.server import FakeRest, serving_rest

SID, TOKEN, NUMBER, BASE = "AC" + "4" * 32, "the-rest-token", "+15550100000", "https://bridge.example"


async def examined(change: Callable[[FakeRest], None] = lambda _: None, **settings: object) -> dict[str, Finding]:
    """Return the findings for an account with everything right but for one change."""
    account = Account(SID, TOKEN, numbers=[OwnedNumber(NUMBER, f"{BASE}/twilio/voice")])
    ours = {"twilio_account_sid": SID, "twilio_auth_token": TOKEN, "twilio_phone_number": NUMBER, "public_url": BASE}
    async with serving_rest(account) as twilio:
        change(twilio)
        chosen = read_settings(**{**ours, "twilio_api_url": twilio.url, **settings})
        found = await asyncio.to_thread(lambda: list(examine_account(chosen, chosen.server.base_url)))
    shown = [finding.found + finding.advice for finding in found]
    assert not any("\n" in one or NUMBER in one for one in shown)
    return {finding.subject: finding for finding in found}


async def test_with_everything_right_all_is_good() -> None:
    found = await examined()
    assert list(found) == ["account", "calls at once", "clock", "number"]
    assert {finding.severity for finding in found.values()} == {Severity.GOOD}


@pytest.mark.parametrize("missing", ["twilio_account_sid", "twilio_auth_token"])
async def test_without_sid_or_token_nobody_is_asked(missing: str) -> None:
    asked: list[FakeRest] = []
    found = await examined(asked.append, **{missing: ""})
    assert [(finding.severity, finding.subject) for finding in found.values()] == [(Severity.NOTE, "account")]
    assert asked[0].asked == []


def own(**fields: str) -> Callable[[FakeRest], None]:
    return lambda twilio: vars(twilio.account.numbers[0]).update(fields)


def be(**fields: object) -> Callable[[FakeRest], None]:
    return lambda twilio: vars(twilio.account).update(fields)


@pytest.mark.parametrize(
    ("change", "subject", "named"),
    [
        pytest.param(be(auth_token="another"), "account", "20003", id="token"),
        pytest.param(be(status="suspended"), "account", "suspended", id="suspended"),
        pytest.param(be(numbers=[]), "number", "not this account's", id="not owned"),
        pytest.param(
            own(voice_url="https://u:secret@old.example/v?key=secret"),
            "number",
            "leads to https://old.example/v, not",
            id="elsewhere",
        ),
        pytest.param(own(voice_url=""), "number", "leads to nowhere, not here", id="nowhere"),
        pytest.param(own(voice_method="GET"), "number", "by GET", id="GET"),
        pytest.param(own(voice_application_sid="AP1"), "number", "application (AP1)", id="application"),
        pytest.param(own(trunk_sid="TK1"), "number", "trunk (TK1)", id="trunk"),
    ],
)
async def test_what_is_in_the_way_is_a_problem(change: Callable[[FakeRest], None], subject: str, named: str) -> None:
    finding = (await examined(change))[subject]
    assert finding.severity is Severity.PROBLEM
    assert named in finding.found


async def test_a_number_that_leads_elsewhere_is_no_problem_before_there_is_a_tunnel() -> None:
    finding = (await examined(own(voice_url=""), public_url=""))["number"]
    assert finding.severity is Severity.NOTE
    assert "serve --tunnel --set-number" in finding.advice


async def test_without_a_number_the_account_is_checked_all_the_same() -> None:
    assert list(await examined(twilio_phone_number="")) == ["account", "calls at once", "clock"]


async def test_a_trial_account_has_its_limits() -> None:
    finding = (await examined(be(type=AccountType.TRIAL)))["calls at once"]
    assert finding.severity is Severity.NOTE
    assert "verified numbers only" in finding.found


@pytest.mark.parametrize(
    ("trial", "slots", "severity", "advice"),
    [
        (False, 1, Severity.GOOD, ""),
        (False, 2, Severity.GOOD, ""),
        (False, 3, Severity.NOTE, "console"),
        (False, 0, Severity.NOTE, "console"),
        (True, 5, Severity.NOTE, "upgrade"),
        (True, 6, Severity.NOTE, "MAX_CALLS=5"),
    ],
)
def test_more_calls_than_twilio_lets_through_are_worth_a_note(
    trial: bool, slots: int, severity: Severity, advice: str
) -> None:
    finding = concurrency_finding(AccountFacts(SID, "active", trial, None), slots)
    assert finding.severity is severity
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("twilio_s", "severity", "named"),
    [
        (1_000.0, Severity.GOOD, "agrees"),
        (940.0, Severity.GOOD, "agrees"),
        (939.0, Severity.PROBLEM, "ahead of"),
        (1_061.0, Severity.PROBLEM, "behind"),
        (None, Severity.NOTE, "no date"),
    ],
)
def test_a_minute_between_the_clocks_is_allowed(twilio_s: float | None, severity: Severity, named: str) -> None:
    finding = clock_finding(twilio_s, 1_000.0)
    assert finding.severity is severity
    assert named in finding.found
