"""Twilio's paths, and what is wrong with a request that comes to another one.

Consoles get a URL without the path, proxies leave a prefix on or drop the upgrade, redirects turn POST into GET:
each is refused with one line that says what to change. A slash behind the path, and the path of PUBLIC_URL before it,
are removed and work; the signature covers the URL as Twilio was given it, slash and all.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from app.http.headers import deny
from app.http.rate_limit import MEDIA_PATH, RateLimiter, RefusalReason
from app.twilio.number import STATUS_PATH, VOICE_PATH
from app.twilio.public_address import PublicAddress
from app.twilio.signature import SIGNATURE_HEADER

ROOT = "/twilio"
AFTER_STREAM_PATH, AFTER_DIAL_PATH = "/twilio/after-stream", "/twilio/after-dial"
WAIT_PATH, AFTER_WAIT_PATH = "/twilio/wait", "/twilio/after-wait"
SELFTEST_PATH = "/twilio/selftest"
WEBHOOKS = (VOICE_PATH, STATUS_PATH, AFTER_STREAM_PATH, AFTER_DIAL_PATH, WAIT_PATH, AFTER_WAIT_PATH)
SOCKETS = (MEDIA_PATH, SELFTEST_PATH)


class TwilioPaths:
    def __init__(self, app: ASGIApp, public: PublicAddress, limiter: RateLimiter) -> None:
        self._app, self._public, self._limiter = app, public, limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = _normalize(scope, urlsplit(self._public.base_url).path)
            if reason := misdirected(scope):
                refusal = self._limiter.refuse(HTTPConnection(scope), reason)
                if scope["type"] == "websocket":
                    return await deny(WebSocket(scope, receive, send), refusal)
                answer = PlainTextResponse(refusal.detail, refusal.status_code, refusal.headers)
                return await answer(scope, receive, send)
        return await self._app(scope, receive, send)


def _normalize(scope: Scope, prefix: str) -> Scope:
    """Return the scope without PUBLIC_URL's path in front, and below `/twilio` without a slash behind."""
    path, raw_path = scope["path"], scope["raw_path"]
    if prefix and raw_path.startswith(f"{prefix}/".encode()):
        path, raw_path = path[len(prefix) :], raw_path[len(prefix) :]
    if path.startswith(f"{ROOT}/"):
        path = path.removesuffix("/")
    return {**scope, "path": path, "raw_path": raw_path}


def misdirected(scope: Scope) -> RefusalReason | None:
    """Return why a request is none that Twilio should make, None if it is one, or none of Twilio's."""
    path: str = scope["path"]
    if ROOT not in path and SIGNATURE_HEADER not in Headers(scope=scope):
        return None
    is_socket = scope["type"] == "websocket"
    if path.startswith(SOCKETS):
        return None if is_socket else RefusalReason.NO_UPGRADE
    if path in WEBHOOKS:
        if is_socket:
            return RefusalReason.WRONG_PATH
        return None if scope["method"] == "POST" else RefusalReason.WRONG_METHOD
    has_prefix = path.removesuffix("/").endswith(WEBHOOKS) or any(socket in path for socket in SOCKETS)
    return RefusalReason.PREFIX if has_prefix else RefusalReason.WRONG_PATH
