"""The headers of a post: an id, a time stamp, and an HMAC over both and the body.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac
from hashlib import sha256

PREFIX = "whsec_"


def key_of(secret: str) -> bytes:
    """Return the key: `whsec_` and base64, or the text itself. Raises ValueError."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{PREFIX} must be followed by base64") from error


def sign(secret: str, event_id: str, time_s: int, body: bytes) -> dict[str, str]:
    """Return the headers; `time_s` in seconds since 1970."""
    signed = f"{event_id}.{time_s}.".encode() + body
    signature = base64.b64encode(hmac.digest(key_of(secret), signed, sha256)).decode()
    return {"webhook-id": event_id, "webhook-timestamp": str(time_s), "webhook-signature": f"v1,{signature}"}
