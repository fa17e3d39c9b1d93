"""The doctor's checks of the Twilio account: can it be reached, may it call, does its number lead here."""

import asyncio
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from app.cli.doctor.finding import Finding, good, note, problem
from app.config import Settings, is_loopback
from app.logging import mask_number
from app.twilio.number import VOICE_PATH, obstacle
from app.twilio.rest import Account, Number, TwilioRest, open_rest
from app.twilio.rest_http import RestError
from app.twilio.signature import same_url
from workers.logging import mask_userinfo

TRIAL_CALLS = 5
"""How many calls a trial account may have on at once."""
SURE_CALLS = 2
"""How many a full account may have on, whatever its business profile."""
SKEW_S = 60.0
"""Clocks further apart than this are a problem, though certificates are refused much later."""


def examine_account(settings: Settings, base_url: str) -> Iterator[Finding]:
    """Ask Twilio about the account and whether its number leads to `base_url`; one finding if that is not possible."""
    if not settings.twilio.account_sid or not settings.twilio.auth_token:
        found = "not checked: TWILIO_ACCOUNT_SID or TWILIO_AUTH_TOKEN is not set"
        yield note("account", found, "put both into .env, then: moshi-bridge doctor")
        return
    try:
        account, number = asyncio.run(_ask(open_rest(settings), settings.twilio.phone_number))
    except RestError as error:
        yield problem("account", str(error))
        return
    yield _status_finding(account)
    yield concurrency_finding(account, settings.slots)
    yield clock_finding(account.clock_s, time.time())
    if settings.twilio.phone_number:
        yield _number_finding(number, settings.twilio.phone_number, base_url)


def _status_finding(account: Account) -> Finding:
    if account.status != "active":
        found = f"{account.status}: Twilio takes and places no calls for it"
        return problem("account", found, "see https://console.twilio.com for why")
    return good("account", f"active, {'trial' if account.trial else 'full'}")


def concurrency_finding(account: Account, slots: int) -> Finding:
    """Return how many calls Twilio allows at once; `slots` is MAX_CALLS, 0 for auto."""
    if not account.trial:
        found = "Twilio's limit is by the business profile: none 2, individual 3, business unlimited"
        if 0 < slots <= SURE_CALLS:
            return good("calls at once", found)
        return note("calls at once", found, "see which one the console shows for this account")
    found = f"a trial account has {TRIAL_CALLS} at most, calls verified numbers only, and plays a notice first"
    advice = f"upgrade it, or set MAX_CALLS={TRIAL_CALLS}" if slots > TRIAL_CALLS else "upgrade it in the console"
    return note("calls at once", found, advice)


def clock_finding(twilio_s: float | None, now_s: float) -> Finding:
    """Compare this machine's clock with Twilio's, both in seconds since 1970."""
    if twilio_s is None:
        return note("clock", "not compared: the answer has no date", "is TWILIO_API_URL Twilio's?")
    skew_s = now_s - twilio_s
    if abs(skew_s) <= SKEW_S:
        return good("clock", "agrees with Twilio's")
    found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} Twilio's: logs mislead, TLS may fail"
    return problem("clock", found, "sudo timedatectl set-ntp true, on a Mac sudo sntp -sS time.apple.com")


def _number_finding(number: Number | None, phone_number: str, base_url: str) -> Finding:
    masked = mask_number(phone_number)
    if reason := obstacle(number, phone_number):
        return problem("number", reason)
    assert number is not None
    ours = mask_userinfo(base_url + VOICE_PATH)
    if not same_url(number.leads_to.voice.url, base_url + VOICE_PATH):
        found = f"{masked} leads to {_shown(number.leads_to.voice.url)}"
        if is_loopback(urlsplit(base_url).hostname or ""):
            return note("number", found, "moshi-bridge serve --tunnel --set-number leads it here")
        return problem("number", f"{found}, not here", f"set its voice URL to {ours} (HTTP POST)")
    if number.leads_to.voice.method != "POST":
        found = f"{masked} asks {ours} by {number.leads_to.voice.method}, and the bridge answers POST"
        return problem("number", found, "choose HTTP POST in the console")
    return good("number", f"{masked} leads to {ours}")


def _shown(url: str) -> str:
    """Return a URL without the user name, password and query that somebody may have put in."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what is no URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.hostname else "nowhere"


async def _ask(rest: TwilioRest, phone_number: str) -> tuple[Account, Number | None]:
    account = await rest.account()
    return account, await rest.find_number(phone_number) if phone_number else None
