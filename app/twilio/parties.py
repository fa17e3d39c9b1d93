"""Addresses of callers and callees: the ways in which Twilio may write one, and its one name here.

`From` and `To` can be a number with or without `+`, with spaces or direction marks, `whatsapp:+1…`, `sip:user@host`
with parameters, `client:name`, or a word for a number that is withheld. Lists, limits and `forget` compare names.
"""

import re
import unicodedata
from enum import StrEnum

from workers.logging import HIDDEN, KEPT_DIGITS

ANONYMOUS = "anonymous"
WITHHELD = {
    *("", ANONYMOUS, "restricted", "unavailable", "unknown", "blocked", "private"),
    *("266696687", "7378742833", "86282452253", "8656696", "2562533"),
}
"""What stands for no number, in small letters and without a plus; the numbers spell the words."""
_PORT = re.compile(r"(@.*):\d+$")
_PUNCTUATION = str.maketrans("", "", "-.()")
_URI = re.compile(r"(sips?|client|whatsapp|tel):(?://)?(.*)", re.DOTALL)
_NUMBER = re.compile(r"(?:\+|00)?([1-9]\d{6,14})", re.ASCII)
_USER_IS_NUMBER = re.compile(r"\+[1-9]\d{6,14}|[1-9]\d{9,14}", re.ASCII)
"""A SIP user that is a number of the telephone network; fewer digits without a plus are an extension."""


class AddressKind(StrEnum):
    NUMBER = "number"
    ANONYMOUS = "anonymous"
    URI = "uri"
    OTHER = "other"


def cleaned(address: str) -> str:
    """Return an address in small letters, without spaces, invisible characters, and a URI's port and parameters."""
    visible = "".join(char for char in address if unicodedata.category(char) not in ("Cf", "Cc") and not char.isspace())
    return _PORT.sub(r"\1", re.split("[;?]", visible.lower())[0])


def name_of(address: str) -> str:
    """Return the one name for all ways to write an address: `+` and digits, `anonymous`, or a URI."""
    clean = cleaned(address)
    scheme, rest = _split(clean)
    user = rest.partition("@")[0]
    if scheme in ("sip", "sips"):
        if _withheld(user):
            return ANONYMOUS
        is_number = _USER_IS_NUMBER.fullmatch(user) or ("user=phone" in address.lower() and _NUMBER.fullmatch(user))
        return _number(user) if is_number else f"sip:{rest}"
    if scheme == "client":
        return clean
    return ANONYMOUS if _withheld(rest) else _number(rest)


def names_of(address: str) -> set[str]:
    """Return what a pattern may match: the address as it is written, and its name."""
    clean, name = cleaned(address), name_of(address)
    return {name, clean} if name != ANONYMOUS or _URI.fullmatch(clean) else {name}


def kind_of(name: str) -> AddressKind:
    """Return what a name of `name_of` is."""
    if name == ANONYMOUS:
        return AddressKind.ANONYMOUS
    if name.startswith("+") and _NUMBER.fullmatch(name):
        return AddressKind.NUMBER
    return AddressKind.URI if _URI.fullmatch(name) else AddressKind.OTHER


def mask_number(address: str) -> str:
    """Return an address with all but the last four characters of its number or user hidden."""
    if _withheld(clean := cleaned(address)):
        return address
    scheme, rest = _split(clean)
    user, at, host = rest.partition("@")
    return f"{scheme}:{_mask(user)}{at}{host}" if scheme else _mask(clean)


def _mask(text: str) -> str:
    return text if len(text) <= KEPT_DIGITS else HIDDEN + text[-KEPT_DIGITS:]


def _split(clean: str) -> tuple[str, str]:
    uri = _URI.fullmatch(clean)
    return (uri[1], uri[2]) if uri else ("", clean)


def _withheld(text: str) -> bool:
    return text != "+" and text.removeprefix("+") in WITHHELD


def _number(text: str) -> str:
    """Return `+` and digits if this is a number, else the text."""
    found = _NUMBER.fullmatch(text.translate(_PUNCTUATION))
    return f"+{found[1]}" if found else text
