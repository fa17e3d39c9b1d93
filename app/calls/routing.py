"""What Twilio's webhooks and sockets ask for: answered by this machine, or by the nodes together."""

from dataclasses import dataclass
from typing import Protocol

from app.calls.active_call import ActiveCall
from app.calls.manager import CallManager
from app.calls.router import CallRouter
from app.twilio.form import Form


class Routing(Protocol):
    """Answers webhooks with TwiML, and claims the calls of media sockets."""

    async def answer(self, form: Form, webhook_token: str = "") -> str:
        """Answer the voice webhook. Raises ValueError for an invalid query."""

    async def after_stream(self, form: Form, webhook_token: str = "") -> str:
        """Answer when a stream is over."""

    async def after_dial(self, form: Form, webhook_token: str = "") -> str:
        """Answer when a transfer is over."""

    async def handle_status(self, form: Form) -> None:
        """Handle a status callback."""

    async def wait(self, form: Form) -> str:
        """Answer the wait page."""

    async def after_wait(self, form: Form) -> str:
        """Answer when a caller has left Twilio's queue."""

    def claim(self, token: str) -> ActiveCall | None:
        """Return the call whose media socket has this token, None without one."""


@dataclass(frozen=True)
class LocalRouting:
    """One machine alone."""

    router: CallRouter
    manager: CallManager

    async def answer(self, form: Form, webhook_token: str = "") -> str:
        return self.router.answer(form, webhook_token)

    async def after_stream(self, form: Form, webhook_token: str = "") -> str:
        return self.router.after_stream(form, webhook_token)

    async def after_dial(self, form: Form, webhook_token: str = "") -> str:
        return self.router.after_dial(form, webhook_token)

    async def handle_status(self, form: Form) -> None:
        self.router.handle_status(form)

    async def wait(self, form: Form) -> str:
        return self.router.wait(form)

    async def after_wait(self, form: Form) -> str:
        return self.router.after_wait(form)

    def claim(self, token: str) -> ActiveCall | None:
        return self.manager.claim(token)
