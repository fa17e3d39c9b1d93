"""Seals: what shows that a message comes from a node of this Twilio account, and for this subject.

The key is made of the account's auth token, which all nodes have. With two tokens, while they are rotated, the primary
one seals and either opens. A seal is 16 bytes in front of the message.
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256

SEAL_BYTES = 16
MAX_BYTES = 1_000_000
"""NATS refuses more than a mebibyte unless told otherwise."""


class Seal:
    """Raises ValueError without a token: anybody could seal with an empty one."""

    def __init__(self, auth_tokens: Sequence[str]) -> None:
        if not auth_tokens or not all(auth_tokens):
            raise ValueError("at least one auth token is needed, and none may be empty")
        self._keys = [hmac.digest(token.encode(), b"moshi-bridge nodes", sha256) for token in auth_tokens]

    def close(self, subject: str, body: bytes) -> bytes:
        """Return the message with its seal in front."""
        return self.sign(subject, body) + body

    def open(self, subject: str, message: bytes) -> bytes | None:
        """Return a message without its seal, None if that is wrong or the message is too long."""
        seal, body = message[:SEAL_BYTES], message[SEAL_BYTES:]
        return body if len(message) <= MAX_BYTES and self.is_signed(subject, body, seal) else None

    def sign(self, subject: str, body: bytes) -> bytes:
        return _sign(self._keys[0], subject, body)

    def is_signed(self, subject: str, body: bytes, signature: bytes) -> bool:
        return any(hmac.compare_digest(_sign(key, subject, body), signature) for key in self._keys)


def _sign(key: bytes, subject: str, body: bytes) -> bytes:
    return hmac.digest(key, b"%d %b %b" % (len(subject), subject.encode(), body), sha256)[:SEAL_BYTES]
