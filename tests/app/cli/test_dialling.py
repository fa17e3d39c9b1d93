"""Numbers with and without extensions, as people write them."""

import pytest

from app.cli.dialling import MOST_KEYS, Dialled, dialled
from app.config import SettingsError

NUMBERS = (
    ("+15551234567", Dialled("+15551234567")),
    ("+1 (555) 123-4567", Dialled("+15551234567")),
    (" +49 30 901820 ", Dialled("+4930901820")),
    ("+44 (0)20 7946 0958", Dialled("+442079460958")),  # Ofcom keeps this one for drama
    ("+39 06 69812345", Dialled("+390669812345")),  # the zero is part of it
    ("tel:+1-555-123-4567", Dialled("+15551234567")),
    ("\u202a+1 555\u00a0123\u20114567\u202c", Dialled("+15551234567")),  # as contacts and web pages copy it
    ("＋１５５５１２３４５６７", Dialled("+15551234567")),
    ("+15551234567x123", Dialled("+15551234567", "ww123")),
    ("+1 555 123 4567 x 123", Dialled("+15551234567", "ww123")),
    ("+15551234567X123", Dialled("+15551234567", "ww123")),
    ("+1 555 123 4567 ext. 123", Dialled("+15551234567", "ww123")),
    ("+1 555 123 4567 extension 123", Dialled("+15551234567", "ww123")),
    ("+15551234567;ext=123", Dialled("+15551234567", "ww123")),
    ("tel:+1-555-123-4567;ext=0123", Dialled("+15551234567", "ww0123")),
    ("+15551234567,,123", Dialled("+15551234567", "wwwwwwww123")),
    ("+15551234567, 123#", Dialled("+15551234567", "wwww123#")),
    ("+15551234567w123", Dialled("+15551234567", "w123")),
    ("+15551234567 WW1w2#", Dialled("+15551234567", "WW1w2#")),
    ("+15551234567x123,,4#", Dialled("+15551234567", "ww123wwwwwwww4#")),
)
"""A number as it may be written, and what is dialled."""

NO_NUMBERS = (
    ("5551234567", "country code first"),
    ("", "country code first"),
    ("hello", "country code first"),
    ("sip:alice@example.com", "country code first"),
    ("client:alice", "country code first"),
    ("whatsapp:+15551234567", "no phone number"),
    ("sip:+15551234567@example.com", "no phone number"),
    ("+15551234567@example.com", "no phone number|too long"),
    ("call +15551234567", "no phone number"),
    ("+", "like"),
    ("+1555123456", "too short"),
    ("+155512345678", "too long"),
    ("+999123456789", "no phone number"),
    ("+1555CALLME", "too short|no phone number"),
    ("+1800FLOWERS", "no phone number"),
    ("+1555123456x", "no phone number|too short"),
    ("+15551234567/+15557654321", "no phone number"),
    ("+15551234567 +15557654321", "no phone number|too long"),
    ("+15551234567;ext=12;ext=34", "no phone number"),
    ("+15551234567,,12abc", "no phone number|too long"),
    (f"+15551234567w{'1' * MOST_KEYS}", f"{MOST_KEYS} keys"),
)
"""What is no number to call, and what is said of it."""


@pytest.mark.parametrize(("written", "meant"), NUMBERS)
def test_a_number_may_be_written_as_people_do(written: str, meant: Dialled) -> None:
    assert dialled(written, "number") == meant


@pytest.mark.parametrize(("written", "reason"), NO_NUMBERS)
def test_what_is_no_number_is_reported_in_one_line(written: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        dialled(written, "number")
    assert "\n" not in str(caught.value)
    assert len(written) <= 4 or written not in str(caught.value)
