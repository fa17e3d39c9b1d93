"""Where our phone number leads: pointed at this service, and back again when we go.

Theory. The values that the number had before us are remembered, and put back only where ours still stand: what somebody
has set in the meantime is his. When our own address changes, those first values stay the ones to go back to. With an
application or a trunk Twilio ignores the voice URL, so such a number is refused, not changed.
"""

import asyncio
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
    """That a number leads to us, and where it led before."""

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


def restored(now: Destination, pointed: Pointed) -> Destination:
    """Return where the number leads once we are gone: each value as it was before, if its URL is ours."""
    voice = pointed.before.voice if now.voice.url == pointed.ours.voice.url else now.voice
    status = pointed.before.status if now.status.url == pointed.ours.status.url else now.status
    return Destination(voice, status)


class NumberOnLoan:
    """Our number, led to us and back; `point` may be called again with another address of ours."""

    def __init__(self, rest: TwilioRest, phone_number: str) -> None:
        self._rest, self._phone_number = rest, phone_number
        self._pointed: Pointed | None = None
        self._leading: asyncio.Task[object] | None = None

    async def point(self, base_url: str) -> None:
        """Have the number lead to the service at `base_url`.

        Raises NumberRefused, with nothing changed, and RestError.
        """
        await self._settle()
        number = await self._rest.find_number(self._phone_number)
        reason = obstacle(number, self._phone_number)
        if reason or number is None:
            raise NumberRefused(reason)
        now, ours = Destination.of(number), Destination.at(base_url)
        before = restored(now, self._pointed) if self._pointed else now
        self._pointed = Pointed(ours, before)  # first: nobody knows whether a request that fails was carried out
        if now != ours:
            await self._lead(number.sid, ours)

    async def restore(self) -> None:
        """Put the old values back where ours still stand; nothing is done for a number that is no longer owned.

        Raises RestError.
        """
        await self._settle()
        if self._pointed is None:
            return
        number = await self._rest.find_number(self._phone_number)
        if number is None:
            return
        now = Destination.of(number)
        wanted = restored(now, self._pointed)
        if wanted != now:
            await self._lead(number.sid, wanted)
        self._pointed = None

    async def _lead(self, sid: NumberSid, to: Destination) -> None:
        request = self._rest.point_number(sid, to.voice.url, to.status.url, to.voice.method, to.status.method)
        self._leading = asyncio.create_task(request)
        await asyncio.shield(self._leading)

    async def _settle(self) -> None:
        """Wait for a request that was cut short: its thread goes on, and would overtake the next one."""
        if self._leading:
            await asyncio.wait({self._leading})
