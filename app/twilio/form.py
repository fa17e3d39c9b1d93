"""The form of a webhook of Twilio's."""

from dataclasses import dataclass

from app.twilio.events import CallSid

MAX_TEXT_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Form:
    """A webhook of Twilio's about one call."""

    call_sid: CallSid
    fields: dict[str, str]
    query: str = ""

    @property
    def outbound(self) -> bool:
        """Whether we have placed this call ourselves: the caller is then our own number."""
        return self.direction.startswith("outbound")

    @property
    def caller(self) -> str:
        """The number that calls, `anonymous` or the like when it is withheld."""
        return self._text("From")

    @property
    def called(self) -> str:
        """The number that is called."""
        return self._text("To")

    @property
    def direction(self) -> str:
        """Twilio's word for who has called whom."""
        return self._text("Direction")

    def _text(self, name: str) -> str:
        """Return a text that the caller may have chosen: cut off, and printable for logs and tables."""
        return "".join(letter for letter in self.fields.get(name, "")[:MAX_TEXT_LENGTH] if letter.isprintable())
