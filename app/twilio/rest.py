"""Twilio's REST API, through the `twilio` package's client in a thread.

`rest_http` decides what is repeated when it fails. Placing and redirecting a call are not idempotent; all else is.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from twilio.base.exceptions import TwilioException  # type: ignore[import-untyped]
from twilio.rest import Client  # type: ignore[import-untyped]

from app.config import Settings, SettingsError
from app.twilio.errors import NOT_IN_PROGRESS
from app.twilio.events import CallSid
from app.twilio.form import parse_count
from app.twilio.rest_http import RestError, RestHttpClient, retry_wait_s, unlike_twilio
from app.twilio.status import OVER

API_URL = "https://api.twilio.com"
MOST_LISTED = 50
PLACED = "outbound-api"
"""The direction of a call that was placed by REST."""
ERROR_LEVEL = "0"
"""A notification of this level is an error, of "1" a warning."""

Result = TypeVar("Result")


class CallStatus(StrEnum):
    QUEUED = "queued"
    INITIATED = "initiated"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def over(self) -> bool:
        return self in OVER


class MachineDetection(StrEnum):
    """When Twilio asks for our TwiML: as soon as it knows who has answered, or when a machine's greeting is over."""

    ENABLE = "Enable"
    DETECT_MESSAGE_END = "DetectMessageEnd"


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A call to place; both numbers as E.164, `time_limit_s` None for Twilio's four hours.

    `send_digits` are the keys that Twilio presses once somebody has answered; w is a pause of half a second.
    """

    to: str
    from_number: str
    voice_url: str
    status_url: str
    time_limit_s: int | None = None
    machine_detection: MachineDetection | None = None
    send_digits: str = ""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the `twilio` package's `calls.create`."""
        arguments = {
            "to": self.to,
            "from_": self.from_number,
            "url": self.voice_url,
            "method": "POST",
            "status_callback": self.status_url,
            "status_callback_method": "POST",
            "status_callback_event": ["initiated", "ringing", "answered", "completed"],
            "time_limit": self.time_limit_s,
            "machine_detection": self.machine_detection,
            "send_digits": self.send_digits,
        }
        return {name: value for name, value in arguments.items() if value}

    def fields(self) -> list[tuple[str, str]]:
        """Return the form that Twilio receives."""
        form = [(name.title().replace("_", ""), value) for name, value in self.arguments().items()]
        return [(name, str(one)) for name, value in form for one in (value if isinstance(value, list) else [value])]


@dataclass(frozen=True, slots=True)
class RestCall:
    """A call as Twilio sees it. `answered_by` is "human", "machine_start", … where machine detection was asked for."""

    sid: CallSid
    status: CallStatus
    answered_by: str | None = None
    duration_s: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """The account; `clock_s` is Twilio's clock in seconds since 1970, None if the answer does not tell."""

    sid: str
    status: str
    trial: bool
    clock_s: float | None


@dataclass(frozen=True, slots=True)
class Webhook:
    """A URL and the HTTP method with which Twilio requests it."""

    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Destination:
    """The voice webhook of a number, and its status callback."""

    voice: Webhook
    status: Webhook


@dataclass(frozen=True, slots=True)
class Number:
    """A number of the account. Twilio ignores the voice URL of one with an application or a trunk."""

    sid: str
    leads_to: Destination
    voice_application_sid: str = ""
    trunk_sid: str = ""


class TwilioRest:
    """The REST API of one account. Every method raises RestError; `sleep` waits before a repetition."""

    def __init__(
        self,
        account_sid: str,
        auth_token: str,
        api_url: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = RestHttpClient(api_url or API_URL)
        self._client = Client(account_sid, auth_token, http_client=self._http)
        self._sleep = sleep
        self.repeats_calls = True
        """Whether placing and redirecting are repeated after Twilio has refused them for a moment."""

    async def prepare(self) -> None:
        """Import what calls need, which twilio does at their first use: seconds, on a busy machine."""
        await asyncio.to_thread(lambda: self._client.calls)

    async def place_call(self, request: CallRequest) -> RestCall:
        """Place a call, which Twilio queues first."""
        return await self._do(lambda: _call(self._client.calls.create(**request.arguments())), idempotent=False)

    async def fetch_call(self, sid: CallSid) -> RestCall:
        return await self._do(lambda: _call(self._client.calls(sid).fetch()))

    async def call_errors(self, sid: CallSid) -> tuple[int, ...]:
        """Return the codes of what went wrong in a call, warnings left out, in the order in which Twilio lists them."""
        noted = await self._do(lambda: self._client.calls(sid).notifications.list(log=int(ERROR_LEVEL)))
        codes = (parse_count(str(note.error_code)) for note in noted if str(note.log) == ERROR_LEVEL)
        return tuple(dict.fromkeys(code for code in codes if code))

    async def recent_calls(self, to: str, from_number: str, within_s: float) -> tuple[RestCall, ...]:
        """Return the calls between these numbers that were placed by REST in the last seconds, the newest first.

        Both times are Twilio's: a wrong clock here does no harm. `MOST_LISTED` calls are looked at.
        """

        def search() -> tuple[RestCall, ...]:
            found = self._client.calls.list(to=to, from_=from_number, limit=MOST_LISTED)
            since_s = (self._http.clock_s or time.time()) - within_s
            placed = [one for one in found if one.direction == PLACED]
            return tuple(_call(one) for one in placed if one.date_created.timestamp() >= since_s)

        return await self._do(search)

    async def redirect(self, call_sid: CallSid, url: str) -> None:
        """Have a running or queued call fetch new TwiML from `url`."""
        await self._do(lambda: self._client.calls(call_sid).update(url=url, method="POST"), idempotent=False)

    async def follow(self, call_sid: CallSid, twiml: str) -> None:
        """Have a running call follow this TwiML, 4,000 characters at most."""
        await self._do(lambda: self._client.calls(call_sid).update(twiml=twiml), idempotent=False)

    async def hang_up(self, call_sid: CallSid) -> bool:
        """End a call, also one that is queued or ringing; return False if it was over already."""
        try:
            await self._do(lambda: self._client.calls(call_sid).update(status=CallStatus.COMPLETED.value))
        except RestError as error:
            if error.code != NOT_IN_PROGRESS:
                raise
            return False
        return True

    async def account(self) -> Account:
        def fetch() -> Account:
            account = self._client.api.v2010.account.fetch()
            return Account(_text(account.sid), _text(account.status), account.type == "Trial", self._http.clock_s)

        return await self._do(fetch)

    async def find_number(self, phone_number: str) -> Number | None:
        """Return this number, None when the account does not own it."""

        def find() -> Number | None:
            found = self._client.incoming_phone_numbers.list(phone_number=phone_number)  # which is a search
            return next((_number(item) for item in found if item.phone_number == phone_number), None)

        return await self._do(find)

    async def point_number(self, sid: str, to: Destination) -> Number:
        """Set the voice webhook and the status callback of a number."""
        values = {
            "voice_url": to.voice.url,
            "voice_method": to.voice.method,
            "status_callback": to.status.url,
            "status_callback_method": to.status.method,
        }
        return await self._do(lambda: _number(self._client.incoming_phone_numbers(sid).update(**values)))

    async def _do(self, request: Callable[[], Result], idempotent: bool = True) -> Result:
        attempt = 1
        while True:
            try:
                return await asyncio.to_thread(request)
            except RestError as error:
                wait_s = retry_wait_s(error, attempt, idempotent, random.random())  # noqa: S311 - no secret
                if wait_s is None:
                    raise
                refusal = error
            except (TwilioException, ValueError, TypeError, AttributeError, LookupError) as error:
                raise unlike_twilio(self._http.host) from error
            await self._sleep(wait_s)
            if not idempotent and not self.repeats_calls:
                raise refusal
            attempt += 1


def open_rest(settings: Settings) -> TwilioRest:
    """Return the REST API of the account in the settings. Raises SettingsError when SID or token are missing."""
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"):
        if not settings.value(name):
            raise SettingsError(f"{name} is not set: copy it from the Twilio console into .env")
    return TwilioRest(settings.twilio.account_sid, settings.twilio.auth_token, settings.twilio.api_url)


def _call(call: Any) -> RestCall:
    answered_by = str(call.answered_by) if call.answered_by else None
    return RestCall(CallSid(_text(call.sid)), CallStatus(call.status), answered_by, parse_count(str(call.duration)))


def _text(value: object) -> str:
    """Return what must be text and not empty. Raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError("a field of the answer is missing")
    return value


def _number(number: Any) -> Number:
    voice = Webhook(number.voice_url or "", number.voice_method or "POST")
    status = Webhook(number.status_callback or "", number.status_callback_method or "POST")
    return Number(
        _text(number.sid), Destination(voice, status), number.voice_application_sid or "", number.trunk_sid or ""
    )
