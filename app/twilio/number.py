"""Where our phone number leads: pointed at this service, and back again when we go.

Theory. The values that the number had before us are remembered, and put back only where ours still stand: what somebody
has set in the meantime is his. When our own address changes, those first values stay the ones to go back to. With an
application or a trunk Twilio ignores the voice URL, so such a number is refused, not changed.
"""

from dataclasses import dataclass
from typing import Self

from app.log import mask_number
from app.twilio.rest import Number, NumberSid, TwilioRest

VOICE_PATH, STATUS_PATH = "/twilio/voice", "/twilio/status"


class NumberRefused(Exception):
    """The number cannot be pointed at us; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A URL and the HTTP method by which Twilio asks it."""

    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Destination:
    """Whom Twilio asks about a call to a number, and whom it tells how the call went."""

    voice: Webhook
    status: Webhook

    @classmethod
    def of(cls, number: Number) -> Self:
        """Return where a number leads."""
        return cls(Webhook(number.voice_url, number.voice_method), Webhook(number.status_url, number.status_method))

    @classmethod
    def at(cls, base_url: str) -> Self:
        """Return a service's own."""
        return cls(Webhook(base_url + VOICE_PATH), Webhook(base_url + STATUS_PATH))


@dataclass(frozen=True, slots=True)
class Pointed:
    """A number that leads to us, with where it led before."""

    sid: NumberSid
    phone_number: str
    ours: Destination
    before: Destination


def obstacle(number: Number | None, phone_number: str) -> str | None:
    """Return why this number cannot lead to us, None when it can; `number` None is one that the account lacks."""
    masked = mask_number(phone_number)
    if number is None:
        return f"TWILIO_PHONE_NUMBER={masked} is not this account's: buy it there, or set one that is"
    for name, sid in (("a TwiML application", number.voice_application_sid), ("a SIP trunk", number.trunk_sid)):
        if sid:
            return (
                f"{masked} belongs to {name} ({sid}), so Twilio ignores its voice URL: "
                "in the console, under the number's voice configuration, choose Webhook"
            )
    return None


def remember(now: Destination, earlier: Pointed | None) -> Destination:
    """Return where to go back to one day: where the number leads `now`, or led before us if that is `earlier` ours."""
    if earlier is None:
        return now
    return restored(now, earlier)


def restored(now: Destination, pointed: Pointed) -> Destination:
    """Return where the number leads once we are gone: each value as it was before, if it still is ours."""
    voice = pointed.before.voice if now.voice == pointed.ours.voice else now.voice
    status = pointed.before.status if now.status == pointed.ours.status else now.status
    return Destination(voice, status)


async def point(rest: TwilioRest, phone_number: str, base_url: str, earlier: Pointed | None = None) -> Pointed:
    """Have a number lead to the service at `base_url`; `earlier` is what this has returned for another address of ours.

    Raises NumberRefused, with nothing changed, and RestError.
    """
    number = await _owned(rest, phone_number)
    now, ours = Destination.of(number), Destination.at(base_url)
    if now != ours:
        await _lead(rest, number.sid, ours)
    return Pointed(number.sid, phone_number, ours, remember(now, earlier))


async def restore(rest: TwilioRest, pointed: Pointed) -> bool:
    """Put the old values back where ours still stand; return whether anything was put back. Raises RestError."""
    number = await rest.find_number(pointed.phone_number)
    if number is None:
        return False
    now = Destination.of(number)
    wanted = restored(now, pointed)
    if wanted == now:
        return False
    await _lead(rest, number.sid, wanted)
    return True


async def _owned(rest: TwilioRest, phone_number: str) -> Number:
    number = await rest.find_number(phone_number)
    reason = obstacle(number, phone_number)
    if reason or number is None:
        raise NumberRefused(reason)
    return number


async def _lead(rest: TwilioRest, sid: NumberSid, to: Destination) -> None:
    await rest.point_number(sid, to.voice.url, to.status.url, to.voice.method, to.status.method)
