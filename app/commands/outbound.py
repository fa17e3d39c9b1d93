"""An outbound call: what Twilio is asked for, whether we can take it, how far it is, what came of it.

Decided without I/O: `checked`, `call_request`, `masked_fields`, `verdict`. The rest asks Twilio and our own service.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from http import HTTPStatus
from typing import assert_never
from urllib.parse import urlsplit

import phonenumbers
from aiohttp import ClientError, ClientSession, ClientTimeout

from app.config import Settings, SettingsError, is_loopback
from app.log import mask_number
from app.twilio.errors import explain
from app.twilio.number import STATUS_PATH, VOICE_PATH
from app.twilio.rest import CallRequest, CallStatus, MachineDetection, RestCall, TwilioRest
from app.twilio.rest_door import RestError
from app.twilio.voice_query import MACHINES, voice_query

LOOK_AGAIN_S = 1.0
ASK_WITHIN_S = 10.0
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to find a service that listens everywhere
WRONG_LENGTH = {
    phonenumbers.ValidationResult.TOO_SHORT: "too short",
    phonenumbers.ValidationResult.TOO_LONG: "too long",
    phonenumbers.ValidationResult.INVALID_LENGTH: "of a length that no number has there",
    phonenumbers.ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "without its area code",
    phonenumbers.ValidationResult.INVALID_COUNTRY_CODE: "of no country",
}


class ExitStatus(IntEnum):
    """What came of it, for whoever started the command."""

    COMPLETED = 0
    FAILED = 1
    WRONG_SETTINGS = 2
    NOT_READY = 3
    BUSY = 4
    NO_ANSWER = 5
    MACHINE = 6
    STOPPED = 130


class Machine(StrEnum):
    """What to do when an answering machine answers: hang up, or wait until its greeting is over and speak."""

    HANG_UP = "hang-up"
    WAIT = "wait"


DETECTION = {Machine.HANG_UP: MachineDetection.ENABLE, Machine.WAIT: MachineDetection.DETECT_MESSAGE_END}


class NotReady(Exception):
    """Our service cannot take the call; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Whom to call and how; None leaves it to the settings, or to Twilio."""

    to: str
    from_number: str | None = None
    time_limit_s: int | None = None
    greeting_frames: int | None = None
    record: bool = False
    machine: Machine | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the call ended."""

    status: ExitStatus
    sentence: str


def dialable(text: str, name: str) -> str:
    """Return a phone number as E.164; raises SettingsError, `name` saying which number is wrong."""
    masked = mask_number(text)
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException as error:
        hint = (
            "write + and the country code first" if not text.lstrip().startswith("+") else "write it like +15551234567"
        )
        raise SettingsError(f"{name} {masked} is no phone number: {hint}") from error
    if wrong := WRONG_LENGTH.get(phonenumbers.is_possible_number_with_reason(number)):
        raise SettingsError(f"{name} {masked} is {wrong}: check its digits")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def checked(settings: Settings, wish: Wish) -> Wish:
    """Return the wish with both numbers as E.164, ours where it names none; raises SettingsError."""
    from_number = wish.from_number or settings.twilio_phone_number
    if not from_number:
        raise SettingsError("TWILIO_PHONE_NUMBER is not set: put it into .env, or use --from")
    if wish.greeting_frames is not None and wish.greeting_frames > settings.greeting_frames:
        raise SettingsError(
            f"--greeting-frames {wish.greeting_frames}: the bridge prepares GREETING_FRAMES={settings.greeting_frames} "
            "when it starts; raise that to have more"
        )
    if wish.record and not settings.recordings:
        raise SettingsError("--record: set RECORDINGS_DIR, for the bridge too, to have calls recorded")
    to, ours = dialable(wish.to, "the number to call"), dialable(from_number, "the number to call from")
    return replace(wish, to=to, from_number=ours)


def call_request(wish: Wish, base_url: str) -> CallRequest:
    """Return what to ask of Twilio for a checked wish, and a service that is reached at `base_url`."""
    assert wish.from_number
    return CallRequest(
        wish.to,
        wish.from_number,
        base_url + VOICE_PATH + voice_query(wish.greeting_frames, wish.record),
        base_url + STATUS_PATH,
        wish.time_limit_s,
        DETECTION[wish.machine] if wish.machine else None,
    )


def masked_fields(request: CallRequest) -> list[tuple[str, str]]:
    """Return the form that Twilio would get, for people to read."""
    return [(name, mask_number(value) if name in ("To", "From") else value) for name, value in request.fields()]


def verdict(call: RestCall, errors: Sequence[int]) -> Verdict:
    """Return what came of a call that is over, by its status and what Twilio has noted of it."""
    told = "".join(f"; {explain(code)}" for code in errors)
    match call.status:
        case CallStatus.BUSY:
            return Verdict(ExitStatus.BUSY, f"busy{told}")
        case CallStatus.NO_ANSWER:
            return Verdict(ExitStatus.NO_ANSWER, f"no answer{told}")
        case CallStatus.COMPLETED if errors:
            return Verdict(ExitStatus.FAILED, f"answered, but the call failed{told}")
        case CallStatus.COMPLETED if call.answered_by in MACHINES:
            return Verdict(ExitStatus.MACHINE, "an answering machine answered; hung up")
        case CallStatus.COMPLETED:
            return Verdict(ExitStatus.COMPLETED, f"completed after {call.duration_s or 0} s")
        case CallStatus.CANCELED:
            return Verdict(ExitStatus.FAILED, f"canceled before anybody answered{told}")
        case CallStatus.FAILED:
            return Verdict(ExitStatus.FAILED, f"failed: Twilio could not put the call through; check the number{told}")
        case CallStatus.QUEUED | CallStatus.INITIATED | CallStatus.RINGING | CallStatus.IN_PROGRESS:
            raise ValueError(f"the call is not over but {call.status}")
        case _:
            assert_never(call.status)


async def require_ready(settings: Settings) -> str:
    """Return where Twilio reaches the service here, once it is ready and answers there too; raises NotReady.

    The service knows best where that is: a tunnel may have given it another address than PUBLIC_URL.
    """
    host = ANYWHERE.get(settings.host, settings.host)
    here = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    async with ClientSession(timeout=ClientTimeout(total=ASK_WITHIN_S)) as client:
        match await _status(client, f"{here}/readyz"):
            case HTTPStatus.OK:
                pass
            case HTTPStatus.SERVICE_UNAVAILABLE:
                raise NotReady(f"the bridge at {here} can take no call now: it is starting, or all its lines are taken")
            case status:
                raise NotReady(
                    f"no bridge at {here} ({status}): start it with moshi-bridge serve, or set HOST and PORT"
                )
        base_url = await _address(client, here) or settings.base_url
        if is_loopback(urlsplit(base_url).hostname or "") and not settings.twilio_api_url:
            raise NotReady(f"PUBLIC_URL: Twilio cannot reach {base_url}; set it to the tunnel's https address")
        if (status := await _status(client, f"{base_url}/healthz")) != HTTPStatus.OK:
            raise NotReady(f"no bridge behind PUBLIC_URL={base_url} ({status}): is the tunnel up?")
    return base_url


class OutboundCall:
    """One call through REST: `run` places and follows it, `stop` hangs up if that is cut short."""

    def __init__(
        self, rest: TwilioRest, request: CallRequest, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._rest, self._request, self._sleep = rest, request, sleep
        self._placing: asyncio.Task[RestCall] | None = None

    async def run(self, show: Callable[[RestCall], None]) -> Verdict:
        """Place the call and `show` it at every look until it is over. Raises RestError if it is not placed.

        When cancelled, `stop` is to be called: Twilio may be placing the call just then.
        """
        self._placing = asyncio.create_task(self._rest.place_call(self._request))
        call = await asyncio.shield(self._placing)
        try:
            return await self._follow(call, show)
        except RestError as error:
            return Verdict(ExitStatus.FAILED, f"lost sight of {call.sid}, which may still be on: {error}")

    async def stop(self) -> str:
        """Hang up, whatever the call is at; return in a sentence what came of that."""
        if self._placing is None:
            return "stopped before the call was placed"
        try:
            sid = (await self._placing).sid
        except RestError:
            return "stopped; the call was not placed"
        try:
            await self._rest.hang_up(sid)
        except RestError as error:
            return f"stopped, but {sid} may still be on: {error}"
        return "stopped; the call was hung up"

    async def _follow(self, call: RestCall, show: Callable[[RestCall], None]) -> Verdict:
        show(call)
        while not call.status.over:
            await self._sleep(LOOK_AGAIN_S)
            call = await self._rest.fetch_call(call.sid)
            show(call)
        return verdict(call, await self._rest.call_errors(call.sid))


async def _address(client: ClientSession, here: str) -> str | None:
    """Return the public address that the service tells those on its machine, None if it tells none."""
    try:
        async with client.get(f"{here}/api/public") as answer:
            told = await answer.json() if answer.ok else {}
    except (ClientError, TimeoutError, ValueError):
        return None
    base_url = told.get("base_url") if isinstance(told, dict) else None
    return base_url if isinstance(base_url, str) else None


async def _status(client: ClientSession, url: str) -> int | str:
    """Return the HTTP status of an answer, or why there was none."""
    try:
        async with client.get(url) as answer:
            return answer.status
    except (ClientError, TimeoutError) as error:
        return str(error) or "no answer in time"
