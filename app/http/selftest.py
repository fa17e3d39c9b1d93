"""The proof that Twilio could reach us: a WebSocket of our own, signed as Twilio signs, out into the world and back.

The asking side sends one nonce, the service returns it with the name that it gave itself at its start. So a wrong
address, a proxy that changes the URL, a wrong token and a tunnel that leads to another service all show before a
caller meets them.
"""

import asyncio
import contextlib
import logging
import secrets

from fastapi import APIRouter, HTTPException, Request, WebSocket
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from app.http.operator_auth import OperatorAuth
from app.http.paths import SELFTEST_PATH
from app.http.webhooks import Webhooks, deny
from app.twilio.public_address import PublicAddress
from app.twilio.signature import SIGNATURE_HEADER, sign, socket_url

log = logging.getLogger(__name__)

NONCE_LENGTH = 32
ASKED_WITHIN_S = 5.0
PROVED_WITHIN_S = 10.0


class ProbeFailed(Exception):
    """No signed socket came back through the public URL; the message says in one line how far it got."""


def build_selftest_router(public: PublicAddress, webhooks: Webhooks, operators: OperatorAuth) -> APIRouter:
    """Return the socket that answers a nonce, and where a program on this machine learns the public URL."""
    router = APIRouter()

    @router.websocket(SELFTEST_PATH)
    async def selftest(websocket: WebSocket) -> None:
        try:
            webhooks.check_socket(websocket)
        except HTTPException as refusal:
            await deny(websocket, refusal)
            return
        await websocket.accept()
        await _answer(websocket, public.service_name)

    @router.get("/api/public")
    async def address(request: Request) -> dict[str, object]:
        operators.require(request)
        return {"base_url": public.base_url, "open": public.is_open, "service": public.service_name}

    return router


async def _answer(websocket: WebSocket, service_name: str) -> None:
    try:
        async with asyncio.timeout(ASKED_WITHIN_S):
            nonce = (await websocket.receive()).get("text")
            if nonce:
                await websocket.send_text(f"{nonce[:NONCE_LENGTH]} {service_name}")
    except TimeoutError:
        log.warning("self-test ended: it asked nothing within %.0f s", ASKED_WITHIN_S)
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the peer may be gone already
        await websocket.close()


async def probe(base_url: str, auth_token: str | None, service_name: str) -> None:
    """Open a signed socket to the service through `base_url`, and see a nonce come back from it.

    Raises ProbeFailed. A proxy of the environment is passed by: cloudflared needs the direct way out as well.
    """
    url = socket_url(base_url) + SELFTEST_PATH
    headers = {SIGNATURE_HEADER: sign(auth_token, url)} if auth_token else {}
    nonce = secrets.token_hex(NONCE_LENGTH // 2)
    try:
        async with (
            asyncio.timeout(PROVED_WITHIN_S),
            connect(url, additional_headers=headers, compression=None, proxy=None) as socket,
        ):
            await socket.send(nonce)
            answer = await socket.recv()
    except TimeoutError as error:
        raise ProbeFailed(f"{url}: no answer within {PROVED_WITHIN_S:.0f} s") from error
    except (OSError, ValueError, WebSocketException) as error:
        raise ProbeFailed(f"{url}: {error or type(error).__name__}") from error
    if answer == f"{nonce} {service_name}":
        return
    where = "another moshi-bridge" if str(answer).startswith(f"{nonce} ") else "something else"
    raise ProbeFailed(f"{url} leads to {where}, not to this service")
