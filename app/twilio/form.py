"""The form of a webhook of Twilio's, and how its texts and numbers are read: a peer may write anything."""

from dataclasses import dataclass

from app.twilio.events import CallSid

MAX_TEXT_LENGTH = 100
COUNT_DIGITS = 9


def printable(text: str, most: int) -> str:
    """Return what can be printed of the first `most` characters."""
    return "".join(filter(str.isprintable, text[:most]))


def parse_count(text: str) -> int | None:
    """Return the number that a text of a few digits writes; None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= COUNT_DIGITS else None


@dataclass(frozen=True, slots=True)
class Form:
    """A webhook of Twilio's about one call.

    `caller` is a number, or `anonymous` or the like when it is withheld. The caller may have chosen a text: it is cut
    off, and printable for logs and tables.
    """

    call_sid: CallSid
    fields: dict[str, str]
    query: str = ""

    @property
    def outbound(self) -> bool:
        """Whether we have placed this call ourselves: the caller is then our own number."""
        return self.direction.startswith("outbound")

    @property
    def caller(self) -> str:
        return self._text("From")

    @property
    def called(self) -> str:
        return self._text("To")

    @property
    def direction(self) -> str:
        return self._text("Direction")

    def _text(self, name: str) -> str:
        return printable(self.fields.get(name, ""), MAX_TEXT_LENGTH)
