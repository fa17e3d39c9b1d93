"""A note on the disk of where our number led before it led to us.

A service that is killed puts nothing back. The one that starts next reads here what the operator wanted; otherwise it
would take the address of the dead one for that, and lead the number there in the end.
"""

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A URL and the HTTP method by which Twilio asks it."""

    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Destination:
    """Whom Twilio asks about a call to a number, and whom it tells how the call went."""

    voice: Webhook
    status: Webhook


@dataclass(frozen=True, slots=True)
class Pointed:
    """That a number leads to us, and where it led before."""

    ours: Destination
    before: Destination


@dataclass(frozen=True, slots=True)
class _Loan:
    phone_number: str
    pointed: Pointed


_LOAN = TypeAdapter(_Loan)


class LoanNote:
    """One note, in a file that only this user can read. No method raises: without a note the service does what it can.

    Every service needs a file of its own: whoever finds one takes its writer for dead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, phone_number: str) -> Pointed | None:
        """Return what is noted of a number; None if there is nothing, or nothing that can be read."""
        try:
            loan = _LOAN.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            log.warning("where the number led before is not known: %s cannot be read", self._path)
            return None
        return loan.pointed if loan.phone_number == phone_number else None

    def write(self, phone_number: str, pointed: Pointed) -> None:
        """Note it, in place of what was noted before."""
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
                file.write(_LOAN.dump_json(_Loan(phone_number, pointed)))
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            log.warning("if this service is killed, the number stays with it: %s: %s", self._path, error.strerror)

    def erase(self) -> None:
        """Throw the note away: the number leads where it led before."""
        with contextlib.suppress(OSError):
            self._path.unlink()
