"""Tokens for media sockets of another node while NATS is away: that node admits or refuses by itself.

A token is good for one call (CallSid, account) at one node, once, until it expires. It is
`CALLSID.EXPIRY.REQUEST.SIGNATURE`, the last part of the socket's path; the request says who calls whom, which persona
answers and whether the call is recorded. `wall_s` is in seconds since 1970: the clocks of nodes differ, by less than
`GOOD_FOR_S` unless `doctor` says so.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

from app.calls.admission import VoiceRequest
from app.cluster.seal import Seal
from app.twilio.events import CallSid

GOOD_FOR_S = 20
_TOKEN = re.compile(r"(([A-Za-z0-9]{1,64})\.([0-9]{1,12})\.([A-Za-z0-9_=-]{1,2048}))\.([0-9a-f]{32})")


class FallbackTokens:
    """Makes tokens for other nodes, and redeems those for this one."""

    def __init__(self, seal: Seal, account_sid: str) -> None:
        self._seal, self._account_sid = seal, account_sid
        self._redeemed: dict[str, int] = {}

    def make(self, node: str, call: CallSid, request: VoiceRequest, wall_s: float) -> str:
        signed = f"{call}.{int(wall_s) + GOOD_FOR_S}.{_serialize(request)}"
        return f"{signed}.{self._seal.sign(self._subject(node), signed.encode()).hex()}"

    def redeem(self, node: str, token: str, wall_s: float) -> tuple[CallSid, VoiceRequest] | None:
        """Return the call that a token admits to this node, and what it asks for.

        None if the token is wrong, used or expired.
        """
        found = _TOKEN.fullmatch(token)
        if found is None:
            return None
        signed, call, expiry, request = found[1], CallSid(found[2]), int(found[3]), found[4]
        if not self._seal.is_signed(self._subject(node), signed.encode(), bytes.fromhex(found[5])):
            return None
        if not wall_s < expiry <= wall_s + 2 * GOOD_FOR_S or token in self._redeemed:
            return None
        self._redeemed = {one: until for one, until in self._redeemed.items() if until > wall_s}
        self._redeemed[token] = expiry
        return call, _parse(request)

    def _subject(self, node: str) -> str:
        return f"fallback {node} {self._account_sid}"


def _serialize(request: VoiceRequest) -> str:
    fields = [request.caller, request.called, request.direction, request.persona, request.record]
    return urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode()


def _parse(text: str) -> VoiceRequest:
    """Parse what a node of this account has written."""
    caller, called, direction, persona, record = json.loads(urlsafe_b64decode(text))
    return VoiceRequest(caller=caller, called=called, direction=direction, persona=persona, record=record)
