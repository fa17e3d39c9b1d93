"""The form of a webhook of Twilio's."""

from dataclasses import dataclass

from app.twilio.events import CallSid

MAX_TEXT_LENGTH = 100


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
        return "".join(filter(str.isprintable, self.fields.get(name, "")[:MAX_TEXT_LENGTH]))
