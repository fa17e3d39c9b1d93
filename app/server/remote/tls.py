"""Whom a client trusts: the system's authorities, one's own, or one certificate by its fingerprint.

Rust's server makes a self-signed certificate for itself. Its fingerprint is compared in the TLS handshake, before the
request with the token is sent.
"""

import hashlib
import ssl
from pathlib import Path

from app.server_urls import parse_pin


def make_context(ca: Path | None, pin: str | None) -> ssl.SSLContext:
    """Return the context for a wss:// URL. Raises ValueError for a file or a fingerprint that is none."""
    if pin is not None:
        return _pinned(parse_pin(pin))
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"{ca}: no certificate of an authority can be read (PEM is expected)") from error


def _pinned(digits: str) -> ssl.SSLContext:
    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            shown = hashlib.sha256(self.getpeercert(binary_form=True) or b"").hexdigest()
            if shown != digits:
                raise ssl.SSLCertVerificationError(f"the server's certificate is another: its SHA-256 is {shown}")

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = Pinned
    return context
