"""The number override: our phone number's webhooks lead to this service while it runs, and are restored afterwards.

Theory. The values that the number had before are kept, and restored only where ours still stand: what somebody has set
in the meantime stays. When our own address changes, those first values stay the ones to restore. With an application
or a trunk Twilio ignores the voice URL, so such a number is refused, not changed. The first values are saved on the
disk as well, because a service that is killed cannot restore them: the next one does.
"""

import asyncio

from app.logging import mask_number
from app.twilio.rest import Number, NumberSid, TwilioRest
from app.twilio.saved_webhook import Destination, Pointed, SavedWebhook, Webhook
from app.twilio.signature import same_url

VOICE_PATH, STATUS_PATH = "/twilio/voice", "/twilio/status"


class NumberRefused(Exception):
    """The number cannot be pointed at us; the message is one line that says why and what to do."""


def leads_to(number: Number) -> Destination:
    """Return where a number leads."""
    voice, status = Webhook(number.voice_url, number.voice_method), Webhook(number.status_url, number.status_method)
    return Destination(voice, status)


def ours_at(base_url: str) -> Destination:
    """Return where a number leads that leads to a service of ours."""
    return Destination(Webhook(base_url + VOICE_PATH), Webhook(base_url + STATUS_PATH))


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
    voice = pointed.before.voice if same_url(now.voice.url, pointed.ours.voice.url) else now.voice
    status = pointed.before.status if same_url(now.status.url, pointed.ours.status.url) else now.status
    return Destination(voice, status)


class NumberOverride:
    """Points our number at this service and restores it; `point` may be called again with another address of ours."""

    def __init__(self, rest: TwilioRest, phone_number: str, saved: SavedWebhook) -> None:
        self._rest, self._phone_number, self._saved = rest, phone_number, saved
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
        now, ours = leads_to(number), ours_at(base_url)
        known = self._pointed or await self._read_saved()
        before = restored(now, known) if known else now
        self._pointed = Pointed(ours, before)  # first: a request that fails may have been carried out
        if now != ours:
            await self._lead(number.sid, ours, self._pointed)

    async def restore(self) -> None:
        """Put the old values back where ours still stand, or those of a service that was killed.

        Nothing is done for a number that is no longer owned. Raises RestError.
        """
        await self._settle()
        self._pointed = self._pointed or await self._read_saved()
        if self._pointed is None:
            return
        number = await self._rest.find_number(self._phone_number)
        if number is None:
            return
        now = leads_to(number)
        wanted = restored(now, self._pointed)
        if wanted != now:
            await self._lead(number.sid, wanted)
        self._pointed = None
        await asyncio.to_thread(self._saved.erase)

    async def _read_saved(self) -> Pointed | None:
        return await asyncio.to_thread(self._saved.read, self._phone_number)

    async def _lead(self, sid: NumberSid, to: Destination, save: Pointed | None = None) -> None:
        self._leading = asyncio.create_task(self._save_and_lead(sid, to, save))
        await asyncio.shield(self._leading)

    async def _save_and_lead(self, sid: NumberSid, to: Destination, save: Pointed | None) -> None:
        if save:
            await asyncio.to_thread(self._saved.write, self._phone_number, save)
        await self._rest.point_number(sid, to.voice.url, to.status.url, to.voice.method, to.status.method)

    async def _settle(self) -> None:
        """Wait for a cancelled request: its thread goes on, and would overtake the next one."""
        if self._leading:
            await asyncio.wait({self._leading})
