"""The webhooks that our number had before this service took it over, saved in a file.

A service that is killed cannot restore them. The next one reads them here; otherwise it would take the address of the
killed service for the operator's own, and restore that.
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
    """A URL and the HTTP method with which Twilio requests it."""

    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Destination:
    """The voice webhook of a number, and its status callback."""

    voice: Webhook
    status: Webhook


@dataclass(frozen=True, slots=True)
class Pointed:
    """Where a number leads while it leads to us, and where it led before."""

    ours: Destination
    before: Destination


@dataclass(frozen=True, slots=True)
class _Saved:
    phone_number: str
    pointed: Pointed


_SAVED = TypeAdapter(_Saved)


class SavedWebhook:
    """One file that only this user can read. No method raises; failures are logged.

    Every service needs a file of its own: it takes the writer of a file that it finds for dead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, phone_number: str) -> Pointed | None:
        """Return what is saved of a number; None if there is nothing, or nothing that can be read."""
        try:
            saved = _SAVED.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            log.warning("where the number led before is not known: %s cannot be read", self._path)
            return None
        return saved.pointed if saved.phone_number == phone_number else None

    def write(self, phone_number: str, pointed: Pointed) -> None:
        """Save it, in place of what was saved before."""
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
                file.write(_SAVED.dump_json(_Saved(phone_number, pointed)))
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            log.warning("if this service is killed, the number stays with it: %s: %s", self._path, error.strerror)

    def erase(self) -> None:
        """Delete the file: the number leads where it led before."""
        with contextlib.suppress(OSError):
            self._path.unlink()
