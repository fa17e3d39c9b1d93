"""The number override: our phone number's webhooks lead to this service while it runs, and are restored afterwards.

Theory. The values that the number had before are kept, and restored only where ours still stand: what somebody has set
in the meantime stays. When our own address changes, those first values stay the ones to restore. With an application
or a trunk Twilio ignores the voice URL, so such a number is refused, not changed. The first values are saved in a file
as well, because a service that is killed cannot restore them: the next one does. Otherwise that would take the address
of the killed service for the operator's own, and restore it.
"""

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.logging import mask_number
from app.twilio.rest import Destination, Number, TwilioRest, Webhook
from app.twilio.signature import same_url

VOICE_PATH, STATUS_PATH = "/twilio/voice", "/twilio/status"

log = logging.getLogger(__name__)


class NumberRefused(Exception):
    """The number cannot be pointed at us; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Pointed:
    """Where a number leads while it leads to us, and where it led before."""

    ours: Destination
    before: Destination


@dataclass(frozen=True, slots=True)
class _Saved:
    phone_number: str
    pointed: Pointed


_SAVED = TypeAdapter(_Saved)


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


class SavedWebhook:
    """One file that only this user can read. No method raises; failures are logged.

    Every service needs a file of its own: it takes the writer of a file that it finds for dead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, phone_number: str) -> Pointed | None:
        """Return what is saved of a number; None if there is nothing, or nothing that can be read."""
        try:
            saved = _SAVED.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            log.warning("where the number led before is not known: %s cannot be read", self._path)
            return None
        return saved.pointed if saved.phone_number == phone_number else None

    def write(self, phone_number: str, pointed: Pointed) -> None:
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
                file.write(_SAVED.dump_json(_Saved(phone_number, pointed)))
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            log.warning("if this service is killed, the number stays with it: %s: %s", self._path, error.strerror)

    def erase(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()


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
        ours = Destination(Webhook(base_url + VOICE_PATH), Webhook(base_url + STATUS_PATH))
        before = restored(number.leads_to, self._pointed) if self._pointed else number.leads_to
        self._pointed = Pointed(ours, before)  # first: a request that fails may have been carried out
        if number.leads_to != ours:
            await asyncio.to_thread(self._saved.write, self._phone_number, self._pointed)
            await self._lead(number.sid, ours)

    async def restore(self) -> None:
        """Put the old values back where ours still stand, or those of a service that was killed.

        Nothing is done for a number that is no longer owned. Raises RestError.
        """
        await self._settle()
        number = await self._rest.find_number(self._phone_number) if self._pointed else None
        if self._pointed is None or number is None:
            return
        wanted = restored(number.leads_to, self._pointed)
        if wanted != number.leads_to:
            await self._lead(number.sid, wanted)
        self._pointed = None
        await asyncio.to_thread(self._saved.erase)

    async def _lead(self, sid: str, to: Destination) -> None:
        self._leading = asyncio.create_task(self._rest.point_number(sid, to))
        await asyncio.shield(self._leading)

    async def _settle(self) -> None:
        """Wait for a cancelled request, whose thread goes on and would overtake the next one; read what is saved."""
        if self._leading:
            await asyncio.wait({self._leading})
        self._pointed = self._pointed or await asyncio.to_thread(self._saved.read, self._phone_number)
