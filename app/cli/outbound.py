"""An outbound call without I/O: the request to Twilio, and the result of the call."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from app.cli.dialling import dialled
from app.config import Settings, SettingsError
from app.logging import mask_number
from app.twilio.errors import explain
from app.twilio.number import STATUS_PATH, VOICE_PATH
from app.twilio.rest import CallRequest, CallStatus, MachineDetection, RestCall
from app.twilio.voice_query import MACHINES, voice_query
from workers.logging import mask_userinfo


class ExitStatus(IntEnum):
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
    """What to do when an answering machine answers: hang up, or wait for the end of its greeting and speak."""

    HANG_UP = "hang-up"
    WAIT = "wait"


DETECTION = {Machine.HANG_UP: MachineDetection.ENABLE, Machine.WAIT: MachineDetection.DETECT_MESSAGE_END}
ENDINGS = {
    CallStatus.BUSY: (ExitStatus.BUSY, "busy"),
    CallStatus.NO_ANSWER: (ExitStatus.NO_ANSWER, "no answer"),
    CallStatus.CANCELED: (ExitStatus.FAILED, "canceled before anybody answered"),
    CallStatus.FAILED: (ExitStatus.FAILED, "failed: Twilio could not connect the call; check the number"),
}


@dataclass(frozen=True, slots=True)
class DialOptions:
    """Whom to call and how; None leaves it to the settings, or to Twilio.

    `prompt` is the id of a prompt that the service has prepared for this call, "" for none.
    """

    to: str
    from_number: str | None = None
    time_limit_s: int | None = None
    greeting_frames: int | None = None
    record: bool = False
    machine: Machine | None = None
    persona: str = ""
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class CallResult:
    status: ExitStatus
    sentence: str


def call_request(settings: Settings, options: DialOptions, base_url: str) -> CallRequest:
    """Return the request for a service that Twilio reaches at `base_url`; raises SettingsError."""
    _check(settings, options)
    to = dialled(options.to, "the number to call")
    ours = dialled(options.from_number or settings.twilio.phone_number, "the number to call from")
    if ours.keys:
        raise SettingsError(f"the number to call from {mask_number(ours.number)} cannot have an extension")
    query = voice_query(options.greeting_frames, options.record, options.persona, options.prompt)
    return CallRequest(
        to=to.number,
        from_number=ours.number,
        voice_url=base_url + VOICE_PATH + query,
        status_url=base_url + STATUS_PATH,
        time_limit_s=options.time_limit_s,
        machine_detection=DETECTION[options.machine] if options.machine else None,
        send_digits=to.keys,
    )


def _check(settings: Settings, options: DialOptions) -> None:
    prepared = settings.calls.greeting_frames
    if not (options.from_number or settings.twilio.phone_number):
        raise SettingsError("TWILIO_PHONE_NUMBER is not set: put it into .env, or use --from")
    if (options.greeting_frames or 0) > prepared:
        wanted = f"--greeting-frames {options.greeting_frames}: the bridge prepares GREETING_FRAMES={prepared}"
        raise SettingsError(f"{wanted} when it starts; raise that to have more")
    if options.record and not settings.recording.folder:
        raise SettingsError("--record: set RECORDINGS_DIR, for the bridge too, to have calls recorded")


def masked_fields(request: CallRequest) -> list[tuple[str, str]]:
    """Return the form for people to read: no number, key or password in full."""
    return [(name, _masked(name, value)) for name, value in request.fields()]


def _masked(name: str, value: str) -> str:
    if name in ("To", "From"):
        return mask_number(value)
    return re.sub(r"\d", "*", value) if name == "SendDigits" else mask_userinfo(value)


def call_result(call: RestCall, errors: Sequence[int]) -> CallResult:
    explained = "".join(f"; {explain(code)}" for code in errors)
    if call.status in ENDINGS:
        status, sentence = ENDINGS[call.status]
        return CallResult(status, sentence + explained)
    if errors:
        return CallResult(ExitStatus.FAILED, f"answered, but the call failed{explained}")
    if call.answered_by in MACHINES:
        return CallResult(ExitStatus.MACHINE, "an answering machine answered; hung up")
    return CallResult(ExitStatus.COMPLETED, f"completed after {call.duration_s or 0} s")
