"""`WS /api/chat`: who may chat, and which call that becomes."""

import asyncio
import secrets

from fastapi import APIRouter, HTTPException, WebSocket
from starlette.requests import HTTPConnection

from app.audio.opus import OpusCodec, PcmCodec
from app.calls.active_call import ActiveCall
from app.calls.admission import VoiceRequest
from app.calls.manager import CallManager
from app.calls.prompts import PromptRejected, PromptUnavailable
from app.calls.router import CallRouter, RejectReason
from app.config import EngineKind, Settings
from app.http.chat import ChatSocket
from app.http.chat_metadata import make_metadata
from app.http.chat_query import ChatQuery, ChatQueryError, parse_chat_query
from app.http.operator_auth import OperatorAuth, bearer_token, is_token
from app.http.persona_routes import PersonaSource
from app.http.rate_limit import RateLimiter, RefusalReason
from app.twilio.events import CallSid

NEWEST_S = 0.5
"""Of one message no more is decoded: what is older is too late to be heard."""
PROMPTS_AT_ONCE = {True: 4, False: 2}
"""How many chats may wait for their prompts, and have voices read: operators', and others', which leave them a half."""
CALLER = "client:chat"
CHAT_SID = "chat-"


class ChatAuth:
    """Operators may chat, and whoever has CHAT_TOKEN; no page of another site."""

    def __init__(self, token: str, operators: OperatorAuth, limiter: RateLimiter) -> None:
        self._token, self._operators, self._limiter = token, operators, limiter

    def is_operator(self, websocket: WebSocket) -> bool:
        return self._operators.is_operator(websocket)

    def require(self, connection: HTTPConnection) -> None:
        """Raise HTTPException 403, or 429 after too many of them."""
        self._operators.require_own_page(connection)
        if not self._has_token(connection) and not self._operators.is_operator(connection):
            raise self._limiter.refuse(connection, RefusalReason.NO_CHAT)

    def _has_token(self, connection: HTTPConnection) -> bool:
        return is_token(bearer_token(connection) or connection.query_params.get("token", ""), self._token)


def build_chat_router(
    settings: Settings,
    auth: ChatAuth,
    limiter: RateLimiter,
    manager: CallManager,
    call_router: CallRouter,
    personas: PersonaSource,
) -> APIRouter:
    router = APIRouter()
    shares = {is_operator: asyncio.Semaphore(most) for is_operator, most in PROMPTS_AT_ONCE.items()}
    account_sid = settings.twilio.account_sid
    is_mlx = settings.model.engine is EngineKind.MLX
    model = settings.model.checkpoint if is_mlx else settings.model.engine

    @router.websocket("/api/chat")
    async def chat(websocket: WebSocket) -> None:
        if not settings.chat.enabled:
            raise HTTPException(404, "there is no chat here: CHAT is false")
        auth.require(websocket)
        query = _parse(websocket, limiter)
        await personas.refresh()
        if query.persona and not manager.knows_persona(query.persona):
            raise _refuse(limiter, 400, "persona: there is none of that name")
        is_operator = auth.is_operator(websocket)
        if query.text_prompt and not is_operator:
            raise _refuse(limiter, 403, "text_prompt: for operators only; ask for a persona")
        call_sid = CallSid(f"{CHAT_SID}{secrets.token_hex(16)}")
        async with manager.events.subscribe(call_sid, pieces=True) as texts:
            try:
                call = await _open(manager, call_router, personas, shares[is_operator], call_sid, query)
            except PromptRejected as error:
                raise _refuse(limiter, 400, f"the prompt is refused: {error}") from error
            except PromptUnavailable as error:
                raise HTTPException(503, str(error), {"Retry-After": "10"}) from error
            codec = PcmCodec() if query.format == "pcm" else OpusCodec(NEWEST_S)
            metadata = make_metadata(call, query, manager.sampling, model)
            await ChatSocket(websocket, call, codec, texts, metadata, account_sid).run()

    return router


def _parse(websocket: WebSocket, limiter: RateLimiter) -> ChatQuery:
    try:
        return parse_chat_query(websocket.query_params)
    except ChatQueryError as error:
        raise _refuse(limiter, 400, str(error)) from error


def _refuse(limiter: RateLimiter, status: int, why: str) -> HTTPException:
    limiter.counts[RefusalReason.BAD_CHAT] += 1
    return HTTPException(status, why)


async def _open(
    manager: CallManager,
    call_router: CallRouter,
    personas: PersonaSource,
    share: asyncio.Semaphore,
    call_sid: CallSid,
    query: ChatQuery,
) -> ActiveCall:
    """Return the call of a new chat. Raises HTTPException 503 without a slot, PromptRejected, PromptUnavailable."""
    prompt = ""
    if manager.ready and (query.text_prompt or query.voice_prompt):
        if share.locked():
            raise PromptUnavailable("other chats wait for their prompts")
        async with share:
            prompt = await personas.prepare_once(query.text_prompt, query.persona, query.voice_prompt)
    request = VoiceRequest(
        caller=CALLER,
        persona=query.persona,
        prompt=prompt,
        chat=True,
        opus=query.format != "pcm",
        sampling=query.sampling,
        seed=query.seed,
    )
    reservation = manager.reserve(call_sid, request)
    call = manager.claim(reservation.token) if reservation else None
    if call is None:
        personas.drop_once(prompt)
        why = RejectReason.NOT_READY if manager.free_slots else RejectReason.BUSY
        call_router.rejected[why] += 1
        raise HTTPException(503, "no slot is free" if why is RejectReason.BUSY else "not ready", {"Retry-After": "10"})
    return call
