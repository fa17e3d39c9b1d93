"""Outbound calls without I/O: what is asked for, and what came of it."""

import re

import pytest

from app.cli.outbound import DialOptions, ExitStatus, Machine, call_request, call_result, checked, masked_fields
from app.config import Settings, SettingsError, read_settings
from app.twilio.events import CallSid
from app.twilio.rest import CallRequest, CallStatus, RestCall

OURS, THEIRS = "+15550100000", "+15550100001"
PUBLIC = "https://phone.example.com"
SETTINGS = read_settings(twilio_phone_number=OURS, public_url=PUBLIC)
REQUEST = CallRequest(THEIRS, OURS, f"{PUBLIC}/twilio/voice", f"{PUBLIC}/twilio/status")


# What is asked for.


def test_what_is_wished_is_asked_for() -> None:
    wish = DialOptions(THEIRS, "+1 555 010 0002", 60, 7, record=True, machine=Machine.WAIT)
    settings = SETTINGS.replaced(recordings_dir="recordings")
    assert call_request(checked(settings, wish), PUBLIC).fields() == [
        ("To", THEIRS),
        ("From", "+15550100002"),
        ("Url", f"{PUBLIC}/twilio/voice?greeting_frames=7&record=true"),
        ("Method", "POST"),
        ("StatusCallback", f"{PUBLIC}/twilio/status"),
        ("StatusCallbackMethod", "POST"),
        *(("StatusCallbackEvent", event) for event in ("initiated", "ringing", "answered", "completed")),
        ("TimeLimit", "60"),
        ("MachineDetection", "DetectMessageEnd"),
    ]


def test_a_recording_that_would_not_be_kept_is_refused() -> None:
    with pytest.raises(SettingsError, match="RECORDINGS_DIR"):
        checked(SETTINGS, DialOptions(THEIRS, record=True))


def test_a_plain_wish_calls_from_our_number_with_the_service_as_it_is_set() -> None:
    assert call_request(checked(SETTINGS, DialOptions(THEIRS)), PUBLIC) == REQUEST


def test_no_greeting_is_a_wish_too() -> None:
    wish = checked(SETTINGS, DialOptions(THEIRS, greeting_frames=0))
    assert call_request(wish, PUBLIC).voice_url.endswith("?greeting_frames=0")


@pytest.mark.parametrize(
    ("settings", "wish", "named"),
    [
        (read_settings(public_url=PUBLIC), DialOptions(THEIRS), "TWILIO_PHONE_NUMBER is not set"),
        (SETTINGS, DialOptions("12"), "the number to call 12"),
        (SETTINGS, DialOptions(THEIRS, "12"), "the number to call from 12"),
        (SETTINGS, DialOptions(THEIRS, f"{OURS}x12"), "the number to call from …0000 cannot have an extension"),
        (SETTINGS, DialOptions(THEIRS, greeting_frames=26), "GREETING_FRAMES=25"),
    ],
)
def test_what_cannot_be_asked_for_is_reported_in_one_line(settings: Settings, wish: DialOptions, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        checked(settings, wish)
    assert "\n" not in str(caught.value)


def test_people_are_shown_no_number_no_password_and_no_keys() -> None:
    settings = SETTINGS.replaced(public_url="https://me:secret@phone.example.com")
    request = call_request(checked(settings, DialOptions(f"{THEIRS}x4711")), settings.server.base_url)
    assert request.voice_url == "https://me:secret@phone.example.com/twilio/voice"
    shown = dict(masked_fields(request))
    assert (shown["To"], shown["From"], shown["SendDigits"]) == ("…0001", "…0000", "ww****")
    assert shown["Url"] == "https://…@phone.example.com/twilio/voice"


def test_an_extension_is_dialled_and_not_called() -> None:
    fields = dict(call_request(checked(SETTINGS, DialOptions(f"{THEIRS};ext=123")), PUBLIC).fields())
    assert (fields["To"], fields["SendDigits"]) == (THEIRS, "ww123")


# What came of it.


@pytest.mark.parametrize(
    ("call", "errors", "status", "named"),
    [
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED, duration_s=7), (), ExitStatus.COMPLETED, "after 7 s"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED, "human", 7), (), ExitStatus.COMPLETED, "after 7 s"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED, "machine_start", 0), (), ExitStatus.MACHINE, "machine"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED, "machine_end_beep", 9), (), ExitStatus.COMPLETED, "after 9 s"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED), (11200,), ExitStatus.FAILED, "11200: .*webhook"),
        (RestCall(CallSid("CA1"), CallStatus.COMPLETED), (31920,), ExitStatus.FAILED, "31920: .*media socket"),
        (RestCall(CallSid("CA1"), CallStatus.BUSY), (), ExitStatus.BUSY, "busy"),
        (RestCall(CallSid("CA1"), CallStatus.NO_ANSWER), (), ExitStatus.NO_ANSWER, "no answer"),
        (RestCall(CallSid("CA1"), CallStatus.FAILED), (21215,), ExitStatus.FAILED, "21215: .*country"),
        (RestCall(CallSid("CA1"), CallStatus.CANCELED), (), ExitStatus.FAILED, "canceled"),
    ],
)
def test_every_end_has_its_exit_status_and_sentence(
    call: RestCall, errors: tuple[int, ...], status: ExitStatus, named: str
) -> None:
    found = call_result(call, errors)
    assert found.status is status
    assert re.search(named, found.sentence)


@pytest.mark.parametrize("status", [status for status in CallStatus if not status.over])
def test_a_call_that_is_on_has_no_verdict(status: CallStatus) -> None:
    with pytest.raises(ValueError, match=status):
        call_result(RestCall(CallSid("CA1"), status), ())
