"""The probe of the public URL: a WebSocket of our own, signed as Twilio signs, through the internet and back.

It sends a nonce; the service returns it with the name that it gave itself at its start. So a wrong address, a proxy
that changes the URL, a wrong token and a tunnel that leads to another service show before a caller meets them.
"""

import asyncio
import contextlib
import logging
import secrets

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from app.http.paths import SELFTEST_PATH
from app.http.twilio_routes import Webhooks
from app.twilio.public_address import PublicAddress
from app.twilio.signature import SIGNATURE_HEADER, sign, socket_url

log = logging.getLogger(__name__)

NONCE_LENGTH = 32
NONCE_WITHIN_S = 5.0
PROBE_WITHIN_S = 10.0


class ProbeFailed(Exception):
    """The public URL does not lead here; the message says in one line how far the probe got."""


def build_selftest_router(public: PublicAddress, webhooks: Webhooks) -> APIRouter:
    router = APIRouter()

    @router.websocket(SELFTEST_PATH)
    async def selftest(websocket: WebSocket) -> None:
        webhooks.check_socket(websocket)
        await websocket.accept()
        await _answer(websocket, public.service_name)

    return router


async def _answer(websocket: WebSocket, service_name: str) -> None:
    try:
        async with asyncio.timeout(NONCE_WITHIN_S):
            nonce = (await websocket.receive()).get("text")
            if nonce:
                await websocket.send_text(f"{nonce[:NONCE_LENGTH]} {service_name}")
    except TimeoutError:
        log.warning("self-test ended: no nonce within %.0f s", NONCE_WITHIN_S)
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the peer may be gone already
        await websocket.close()


async def probe(base_url: str, auth_token: str | None, service_name: str) -> None:
    """Send a nonce to the service through `base_url`. Raises ProbeFailed.

    Proxies of the environment are not used: cloudflared needs the direct way out as well.
    """
    url = socket_url(base_url) + SELFTEST_PATH
    headers = {SIGNATURE_HEADER: sign(auth_token, url)} if auth_token else {}
    nonce = secrets.token_hex(NONCE_LENGTH // 2)
    try:
        async with (
            asyncio.timeout(PROBE_WITHIN_S),
            connect(url, additional_headers=headers, compression=None, proxy=None) as socket,
        ):
            await socket.send(nonce)
            answer = await socket.recv()
    except TimeoutError as error:
        raise ProbeFailed(f"{url}: no answer within {PROBE_WITHIN_S:.0f} s") from error
    except (OSError, ValueError, WebSocketException) as error:
        raise ProbeFailed(f"{url}: {error or type(error).__name__}") from error
    if answer == f"{nonce} {service_name}":
        return
    where = "another moshi-bridge" if str(answer).startswith(f"{nonce} ") else "something else"
    raise ProbeFailed(f"{url} leads to {where}, not to this service")
