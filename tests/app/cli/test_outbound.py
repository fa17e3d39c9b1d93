"""Outbound calls without I/O: the request, and the result."""

import re

import pytest

from app.cli.outbound import DialOptions, ExitStatus, Machine, call_request, call_result, masked_fields
from app.config import Settings, SettingsError, read_settings
from app.twilio.events import CallSid
from app.twilio.rest import CallRequest, CallStatus, RestCall

OURS, THEIRS = "+15550100000", "+15550100001"
PUBLIC = "https://phone.example.com"
SETTINGS = read_settings(twilio_phone_number=OURS, public_url=PUBLIC)


def test_all_options_are_asked_for() -> None:
    options = DialOptions(
        f"{THEIRS};ext=123", "+1 555 010 0002", 60, 7, record=True, machine=Machine.WAIT, persona="ada", prompt="x_-1"
    )
    assert call_request(SETTINGS.replaced(recordings_dir="recordings"), options, PUBLIC).fields() == [
        ("To", THEIRS),
        ("From", "+15550100002"),
        ("Url", f"{PUBLIC}/twilio/voice?greeting_frames=7&record=true&persona=ada&prompt=x_-1"),
        ("Method", "POST"),
        ("StatusCallback", f"{PUBLIC}/twilio/status"),
        ("StatusCallbackMethod", "POST"),
        *(("StatusCallbackEvent", event) for event in ("initiated", "ringing", "answered", "completed")),
        ("TimeLimit", "60"),
        ("MachineDetection", "DetectMessageEnd"),
        ("SendDigits", "ww123"),
    ]


def test_without_options_our_number_calls_and_the_service_is_as_it_is_set() -> None:
    plain = CallRequest(THEIRS, OURS, f"{PUBLIC}/twilio/voice", f"{PUBLIC}/twilio/status")
    assert call_request(SETTINGS, DialOptions(THEIRS), PUBLIC) == plain


def test_no_greeting_can_be_asked_for() -> None:
    request = call_request(SETTINGS, DialOptions(THEIRS, greeting_frames=0), PUBLIC)
    assert request.voice_url.endswith("?greeting_frames=0")


@pytest.mark.parametrize(
    ("settings", "options", "named"),
    [
        (read_settings(public_url=PUBLIC), DialOptions(THEIRS), "TWILIO_PHONE_NUMBER is not set"),
        (SETTINGS, DialOptions("12"), "the number to call 12"),
        (SETTINGS, DialOptions(THEIRS, "12"), "the number to call from 12"),
        (SETTINGS, DialOptions(THEIRS, f"{OURS}x12"), "the number to call from …0000 cannot have an extension"),
        (SETTINGS, DialOptions(THEIRS, greeting_frames=26), "GREETING_FRAMES=25"),
        (SETTINGS, DialOptions(THEIRS, record=True), "RECORDINGS_DIR"),
    ],
)
def test_what_cannot_be_asked_for_is_reported_in_one_line(settings: Settings, options: DialOptions, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        call_request(settings, options, PUBLIC)
    assert "\n" not in str(caught.value)


def test_people_are_shown_no_number_no_password_and_no_keys() -> None:
    request = call_request(SETTINGS, DialOptions(f"{THEIRS}x4711"), "https://me:secret@phone.example.com")
    assert request.voice_url == "https://me:secret@phone.example.com/twilio/voice"
    shown = dict(masked_fields(request))
    assert (shown["To"], shown["From"], shown["SendDigits"]) == ("…0001", "…0000", "ww****")
    assert shown["Url"] == "https://…@phone.example.com/twilio/voice"


DONE = CallStatus.COMPLETED


@pytest.mark.parametrize(
    ("call_status", "answered_by", "errors", "status", "named"),
    [
        (DONE, None, (), ExitStatus.COMPLETED, "after 7 s"),
        (DONE, "human", (), ExitStatus.COMPLETED, "after 7 s"),
        (DONE, "machine_start", (), ExitStatus.MACHINE, "machine"),
        (DONE, "machine_end_beep", (), ExitStatus.COMPLETED, "after 7 s"),
        (DONE, None, (11200,), ExitStatus.FAILED, "11200: .*webhook"),
        (DONE, None, (31920,), ExitStatus.FAILED, "31920: .*media socket"),
        (CallStatus.BUSY, None, (), ExitStatus.BUSY, "busy"),
        (CallStatus.NO_ANSWER, None, (), ExitStatus.NO_ANSWER, "no answer"),
        (CallStatus.FAILED, None, (21215,), ExitStatus.FAILED, "21215: .*country"),
        (CallStatus.CANCELED, None, (), ExitStatus.FAILED, "canceled"),
    ],
)
def test_every_end_has_its_exit_status_and_sentence(
    call_status: CallStatus, answered_by: str | None, errors: tuple[int, ...], status: ExitStatus, named: str
) -> None:
    found = call_result(RestCall(CallSid("CA1"), call_status, answered_by, 7), errors)
    assert found.status is status
    assert re.search(named, found.sentence)
