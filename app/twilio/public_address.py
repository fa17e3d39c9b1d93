"""How Twilio reaches this service, and whether it can: a tunnel may give another address at any time.

Every route that needs the address asks for it when a request comes. What Twilio signed for an address of before is
refused, because nothing leads from there to here any more.
"""

import secrets

from app.config import Settings
from app.twilio.signature import SignatureCheck


class PublicAddress:
    """The public URL in use, http(s)://host[:port][/prefix], and the check of what is signed for it or NODE_URL."""

    def __init__(self, settings: Settings) -> None:
        self._tokens = settings.twilio.auth_tokens if settings.twilio.checks_signatures else ()
        self.is_open = not settings.tunnel.start
        """Whether calls are taken: with a tunnel, once a signed socket has come back through it."""
        self.service_name = secrets.token_hex(8)
        """Tells this service from any other that the address may lead to."""
        node_url = settings.cluster.node_url
        self._node_url = node_url
        self._node_check = SignatureCheck(node_url, self._tokens) if node_url and self._tokens else None
        self.move(settings.server.base_url)

    @property
    def media_url(self) -> str:
        """Where Twilio opens media sockets: this node's own address, http(s)://…"""
        return self._node_url or self.base_url

    def socket_valid(self, path: str, signature: str | None) -> bool:
        """Check a WebSocket upgrade, over NODE_URL or, for a tunnel's probe, over the public URL."""
        checks = [check for check in (self._node_check, self.check) if check]
        return not checks or any(check.socket_valid(path, signature) for check in checks)

    def move(self, base_url: str) -> None:
        """Use another address. Raises ValueError when it is no http(s) URL."""
        self.check = SignatureCheck(base_url, self._tokens) if self._tokens else None
        """None when signatures are not checked."""
        self.base_url = base_url
