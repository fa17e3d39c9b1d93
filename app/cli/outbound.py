"""An outbound call without I/O: what Twilio is asked for, and what came of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import assert_never

from app.cli.dialling import dialled
from app.config import Settings, SettingsError
from app.logging import mask_number
from app.twilio.errors import explain
from app.twilio.number import STATUS_PATH, VOICE_PATH
from app.twilio.rest import CallRequest, CallStatus, MachineDetection, RestCall
from app.twilio.voice_query import MACHINES, voice_query
from workers.lines import mask_userinfo


class ExitStatus(IntEnum):
    """What came of it, for whoever started the command."""

    COMPLETED = 0
    FAILED = 1
    WRONG_SETTINGS = 2
    NOT_READY = 3
    BUSY = 4
    NO_ANSWER = 5
    MACHINE = 6
    UNKNOWN = 7
    NO_SLOT = 8
    STOPPED = 130


class Machine(StrEnum):
    """What to do when an answering machine answers: hang up, or wait until its greeting is over and speak."""

    HANG_UP = "hang-up"
    WAIT = "wait"


DETECTION = {Machine.HANG_UP: MachineDetection.ENABLE, Machine.WAIT: MachineDetection.DETECT_MESSAGE_END}


@dataclass(frozen=True, slots=True)
class DialOptions:
    """Whom to call and how; None leaves it to the settings, or to Twilio. `keys` are pressed once it is answered."""

    to: str
    from_number: str | None = None
    time_limit_s: int | None = None
    greeting_frames: int | None = None
    record: bool = False
    machine: Machine | None = None
    keys: str = ""


@dataclass(frozen=True, slots=True)
class CallResult:
    """How the call ended."""

    status: ExitStatus
    sentence: str


def checked(settings: Settings, wish: DialOptions) -> DialOptions:
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
    to, ours = dialled(wish.to, "the number to call"), dialled(from_number, "the number to call from")
    if ours.keys:
        raise SettingsError(f"the number to call from {mask_number(ours.number)} cannot have an extension")
    return replace(wish, to=to.number, keys=to.keys, from_number=ours.number)


def call_request(wish: DialOptions, base_url: str) -> CallRequest:
    """Return what to ask of Twilio for a checked wish, and a service that is reached at `base_url`."""
    assert wish.from_number
    return CallRequest(
        wish.to,
        wish.from_number,
        base_url + VOICE_PATH + voice_query(wish.greeting_frames, wish.record),
        base_url + STATUS_PATH,
        wish.time_limit_s,
        DETECTION[wish.machine] if wish.machine else None,
        wish.keys,
    )


def masked_fields(request: CallRequest) -> list[tuple[str, str]]:
    """Return the form that Twilio would get, for people to read: no number, key or password in full."""
    return [(name, _masked(name, value)) for name, value in request.fields()]


def _masked(name: str, value: str) -> str:
    if name in ("To", "From"):
        return mask_number(value)
    return re.sub(r"\d", "*", value) if name == "SendDigits" else mask_userinfo(value)


def call_result(call: RestCall, errors: Sequence[int]) -> CallResult:
    """Return what came of a call that is over, by its status and what Twilio has noted of it."""
    told = "".join(f"; {explain(code)}" for code in errors)
    match call.status:
        case CallStatus.BUSY:
            return CallResult(ExitStatus.BUSY, f"busy{told}")
        case CallStatus.NO_ANSWER:
            return CallResult(ExitStatus.NO_ANSWER, f"no answer{told}")
        case CallStatus.COMPLETED if errors:
            return CallResult(ExitStatus.FAILED, f"answered, but the call failed{told}")
        case CallStatus.COMPLETED if call.answered_by in MACHINES:
            return CallResult(ExitStatus.MACHINE, "an answering machine answered; hung up")
        case CallStatus.COMPLETED:
            return CallResult(ExitStatus.COMPLETED, f"completed after {call.duration_s or 0} s")
        case CallStatus.CANCELED:
            return CallResult(ExitStatus.FAILED, f"canceled before anybody answered{told}")
        case CallStatus.FAILED:
            return CallResult(
                ExitStatus.FAILED, f"failed: Twilio could not put the call through; check the number{told}"
            )
        case CallStatus.QUEUED | CallStatus.INITIATED | CallStatus.RINGING | CallStatus.IN_PROGRESS:
            raise ValueError(f"the call is not over but {call.status}")
        case _:
            assert_never(call.status)
