"""A phone number as people write it: E.164 to call, and the keys to press once somebody has answered.

An extension is written `x123`, `ext. 123` or `;ext=123`, or with the pauses that Twilio or a phone's contacts have:
`w` is half a second, `W` one, a comma two. https://www.twilio.com/docs/voice/api/call-resource#send-digits
"""

import re
from dataclasses import dataclass

import phonenumbers

from app.config import SettingsError
from app.logging import mask_number

MOST_KEYS = 32
"""Twilio takes no longer SendDigits."""
BEFORE_EXTENSION = "ww"
COMMA = "wwww"
WRONG_LENGTH = {
    phonenumbers.ValidationResult.TOO_SHORT: "too short",
    phonenumbers.ValidationResult.TOO_LONG: "too long",
    phonenumbers.ValidationResult.INVALID_LENGTH: "of a length that no number has there",
    phonenumbers.ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "without its area code",
    phonenumbers.ValidationResult.INVALID_COUNTRY_CODE: "of no country",
}
_PAUSED = re.compile(r"(?P<number>.*?\d)\s*(?P<keys>[,wW][\d*#A-DwW,\s]*)")
_OTHER_SCHEME = re.compile(r"\s*(?!tel:)[^\W\d]", re.IGNORECASE)
"""Letters before the number: whatsapp:+1…, sip:+1…, or a sentence."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """Whom to call, as E.164, and the keys to press then, in Twilio's letters; "" for none."""

    number: str
    keys: str = ""


def dialled(text: str, name: str) -> Dialled:
    """Return what a number means; raises SettingsError, `name` saying which number is wrong.

    Every digit must be one of the number or of its extension: what is left over is a mistake, not decoration.
    """
    paused = _PAUSED.fullmatch(text.strip())
    bare, wrong = paused["number"] if paused else text, f"{name} {mask_number(text)}"
    try:
        number = phonenumbers.parse(bare)
    except phonenumbers.NumberParseException as error:
        like = "write it like +15551234567" if text.lstrip().startswith("+") else "write + and the country code first"
        raise SettingsError(f"{wrong} is no phone number: {like}") from error
    if length := WRONG_LENGTH.get(phonenumbers.is_possible_number_with_reason(number)):
        raise SettingsError(f"{wrong} is {length}: check its digits")
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    whole = _digits(bare.replace("(0)", "")) == _digits(e164) + (number.extension or "")
    if not whole or _OTHER_SCHEME.match(bare) or "@" in bare:
        raise SettingsError(f"{wrong} is no phone number: write it like +15551234567 or +15551234567x123")
    keys = BEFORE_EXTENSION + number.extension if number.extension else ""
    keys += "".join(paused["keys"].split()).replace(",", COMMA) if paused else ""
    if len(keys) > MOST_KEYS:
        raise SettingsError(f"{wrong}: Twilio presses {MOST_KEYS} keys and pauses at most, these are {len(keys)}")
    return Dialled(e164, keys)


def _digits(text: str) -> str:
    return "".join(str(int(letter)) for letter in text if letter.isdecimal())
