"""What a Twilio account owns and does, as its REST API shows it: numbers, calls, refusals. Without I/O."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import StrEnum

from app.simulator.remote import Remote
from app.simulator.report import CallReport

Json = dict[str, object]

E164 = re.compile(r"\+[1-9]\d{6,14}")
FINAL = ("completed", "busy", "no-answer", "failed", "canceled")
ERROR, WARNING = "0", "1"


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer that refuses: HTTP `status`, None for no answer at all; `code` None for one that is not Twilio's.

    `text` is a body of another shape. `carried_out` tells that what was asked is done all the same.
    """

    status: int | None
    code: int | None = None
    message: str = ""
    retry_after_s: int | None = None
    text: str = "<html>unavailable</html>"
    carried_out: bool = False

    def body(self) -> Json:
        more_info = f"https://www.twilio.com/docs/errors/{self.code}"
        return {"code": self.code, "message": self.message, "more_info": more_info, "status": self.status}


UNAUTHORIZED = Fault(401, 20003, "Authenticate")
NOT_FOUND = Fault(404, 20404, "The requested resource was not found")
TOO_MANY_REQUESTS = Fault(429, 20429, "Too Many Requests")
TOO_MANY_CALLS = Fault(429, 10004, "Call concurrency limit exceeded")
UNAVAILABLE = Fault(503)
NO_ANSWER = Fault(None)
NOT_IN_PROGRESS = Fault(400, 21220, "Call is not in-progress. Cannot redirect.")


class AccountType(StrEnum):
    TRIAL = "Trial"
    FULL = "Full"


@dataclass
class OwnedNumber:
    """A phone number of the account's, by the names of Twilio's JSON."""

    phone_number: str
    voice_url: str = ""
    voice_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"
    voice_application_sid: str = ""
    trunk_sid: str = ""
    sid: str = field(default_factory=lambda: f"PN{secrets.token_hex(16)}")

    def as_json(self, account_sid: str) -> Json:
        return {**vars(self), "account_sid": account_sid}

    def update(self, form: Mapping[str, str]) -> None:
        """Change what the form names, as `VoiceUrl`."""
        for name in ("voice_url", "voice_method", "status_callback", "status_callback_method"):
            if (value := form.get(name.title().replace("_", ""))) is not None:
                setattr(self, name, value)


@dataclass
class PlacedCall:
    """A call placed through REST: the form that did, and what has become of it."""

    form: Mapping[str, str]
    events: Sequence[str] = ("completed",)
    status: str = "queued"
    answered_by: str | None = None
    duration_s: int | None = None
    notifications: list[tuple[str, int]] = field(default_factory=list)
    """Level and code."""
    report: CallReport | None = None
    remote: Remote = field(default_factory=Remote)
    created_s: float = 0.0
    """Seconds since 1970, by Twilio's clock."""
    sid: str = field(default_factory=lambda: f"CA{secrets.token_hex(16)}")

    def as_json(self, account_sid: str) -> Json:
        return {
            "sid": self.sid,
            "date_created": formatdate(self.created_s),
            "account_sid": account_sid,
            "to": self.form["To"],
            "from": self.form["From"],
            "status": self.status,
            "answered_by": self.answered_by,
            "duration": None if self.duration_s is None else str(self.duration_s),
            "direction": "outbound-api",
            "api_version": "2010-04-01",
        }


@dataclass
class Account:
    """An account; a trial one may call nobody: no number is verified."""

    sid: str
    auth_token: str
    type: AccountType = AccountType.FULL
    status: str = "active"
    numbers: list[OwnedNumber] = field(default_factory=list)
    calls: dict[str, PlacedCall] = field(default_factory=dict)

    def as_json(self) -> Json:
        """Return the resource; the real one holds the token, too."""
        return {"sid": self.sid, "status": self.status, "type": self.type, "auth_token": self.auth_token}

    def refuses(self, form: Mapping[str, str]) -> Fault | None:
        """Return why a call with this form is not placed, None when it is."""
        to, from_number = form.get("To", ""), form.get("From", "")
        for wrong, code, message in (
            (not E164.fullmatch(to), 21211, f"The phone number you are attempting to call, {to}, is not valid."),
            (not E164.fullmatch(from_number), 21212, f"The source phone number, {from_number}, is not valid."),
            (
                from_number not in {number.phone_number for number in self.numbers},
                21210,
                f"{from_number} is not yours.",
            ),
            (self.type is AccountType.TRIAL, 21219, f"{to} is unverified: trial accounts call verified numbers only."),
        ):
            if wrong:
                return Fault(400, code, message)
        return None
