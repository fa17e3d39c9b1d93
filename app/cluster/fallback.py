"""Tokens for media sockets of another node while NATS is away: that node admits or refuses by itself.

A token is good for one call (CallSid, account) at one node, once, until it expires. It is `CALLSID.EXPIRY.SIGNATURE`,
the last part of the socket's path. `wall_s` is in seconds since 1970: the clocks of nodes differ, by less than
`GOOD_FOR_S` unless `doctor` says so.
"""

import re

from app.cluster.seal import Seal
from app.twilio.events import CallSid

GOOD_FOR_S = 20
_TOKEN = re.compile(r"([A-Za-z0-9]{1,64})\.([0-9]{1,12})\.([0-9a-f]{32})")


class FallbackTokens:
    """Makes tokens for other nodes, and redeems those for this one."""

    def __init__(self, seal: Seal, account_sid: str) -> None:
        self._seal, self._account_sid = seal, account_sid
        self._redeemed: dict[str, int] = {}

    def make(self, node: str, call: CallSid, wall_s: float) -> str:
        expiry = int(wall_s) + GOOD_FOR_S
        return f"{call}.{expiry}.{self._seal.sign(self._subject(node), f'{call}.{expiry}'.encode()).hex()}"

    def redeem(self, node: str, token: str, wall_s: float) -> CallSid | None:
        """Return the call that a token admits to this node, None if it is wrong, used or expired."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            return None
        call, expiry = CallSid(found[1]), int(found[2])
        signed = f"{call}.{expiry}".encode()
        if not self._seal.is_signed(self._subject(node), signed, bytes.fromhex(found[3])):
            return None
        if not wall_s < expiry <= wall_s + 2 * GOOD_FOR_S or token in self._redeemed:
            return None
        self._redeemed = {one: until for one, until in self._redeemed.items() if until > wall_s}
        self._redeemed[token] = expiry
        return call

    def _subject(self, node: str) -> str:
        return f"fallback {node} {self._account_sid}"
