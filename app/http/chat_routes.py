"""`WS /api/chat`: who may chat, and which call that becomes."""

import hmac
import secrets

from fastapi import APIRouter, HTTPException, WebSocket

from app.audio.opus import OpusCodec, PcmCodec
from app.calls.active_call import ActiveCall, VoiceRequest
from app.calls.manager import CallManager
from app.calls.router import CallRouter, RejectReason
from app.config import Settings
from app.http.chat import ChatSocket, CodecRunner
from app.http.chat_query import ChatQuery, ChatQueryError, parse_chat_query
from app.http.operator_auth import OperatorAuth
from app.http.persona_routes import PersonaSource
from app.http.rate_limit import RateLimiter, RefusalReason
from app.twilio.events import CallSid

NEWEST_S = 0.5
"""Of one message no more is decoded: what is older is too late to be heard."""
CALLER = "client:chat"
BUILD = (
    *("build_timestamp", "build_date", "git_branch", "git_timestamp", "git_date", "git_hash", "git_describe"),
    *("rustc_host_triple", "rustc_version", "cargo_target_triple"),
)
"""What Kyutai's page wants to find in the metadata; of a Rust server."""


class ChatAuth:
    """Operators may chat, and whoever has CHAT_TOKEN; no page of another site."""

    def __init__(self, token: str, operators: OperatorAuth, limiter: RateLimiter) -> None:
        self._token, self._operators, self._limiter = token, operators, limiter

    def require(self, websocket: WebSocket) -> None:
        """Raise HTTPException 403, or 429 after too many of them."""
        self._operators.require_own_page(websocket)
        if not self._has_token(websocket) and not self._operators.is_operator(websocket):
            raise self._limiter.refuse(websocket, RefusalReason.NO_CHAT)

    def _has_token(self, websocket: WebSocket) -> bool:
        scheme, _, bearer = websocket.headers.get("authorization", "").partition(" ")
        given = bearer if scheme == "Bearer" else websocket.query_params.get("token", "")
        return bool(self._token) and hmac.compare_digest(given.encode(errors="replace"), self._token.encode())


def build_chat_router(
    settings: Settings,
    auth: ChatAuth,
    limiter: RateLimiter,
    manager: CallManager,
    call_router: CallRouter,
    personas: PersonaSource,
) -> APIRouter:
    router, runner = APIRouter(), CodecRunner()
    account_sid = settings.twilio.account_sid

    @router.websocket("/api/chat")
    async def chat(websocket: WebSocket) -> None:
        if not settings.chat.enabled:
            raise HTTPException(404, "there is no chat here: CHAT is false")
        auth.require(websocket)
        query = _parse(websocket, limiter)
        await personas.refresh()
        if query.persona and not manager.knows_persona(query.persona):
            raise HTTPException(400, "persona: there is none of that name")
        call_sid = CallSid(f"chat-{secrets.token_hex(16)}")
        async with manager.events.subscribe(call_sid, pieces=True) as texts:
            call = _open(manager, call_router, call_sid, query)
            codec = PcmCodec() if query.format == "pcm" else OpusCodec(NEWEST_S)
            metadata = _metadata(settings, call, query)
            await ChatSocket(websocket, call, codec, runner, texts, metadata, account_sid).run()

    return router


def _parse(websocket: WebSocket, limiter: RateLimiter) -> ChatQuery:
    try:
        return parse_chat_query(websocket.query_params)
    except ChatQueryError as error:
        limiter.counts[RefusalReason.BAD_CHAT] += 1
        raise HTTPException(400, str(error)) from error


def _open(manager: CallManager, call_router: CallRouter, call_sid: CallSid, query: ChatQuery) -> ActiveCall:
    """Return the call of a new chat. Raises HTTPException 503 without a free slot."""
    sampling, seed = query.sampling, query.seed
    request = VoiceRequest(caller=CALLER, persona=query.persona, chat=True, sampling=sampling, seed=seed)
    reservation = manager.reserve(call_sid, request)
    call = manager.claim(reservation.token) if reservation else None
    if call is None:
        why = RejectReason.NOT_READY if manager.free_slots else RejectReason.BUSY
        call_router.rejected[why] += 1
        raise HTTPException(503, "no slot is free" if why is RejectReason.BUSY else "not ready", {"Retry-After": "10"})
    return call


def _metadata(settings: Settings, call: ActiveCall, query: ChatQuery) -> dict[str, object]:
    """Return what is true of a chat; None where the checkpoint's own value holds."""
    sampling = {**dict(settings.sampling.given), **dict(call.sampling)}
    return {
        "text_temperature": sampling.get("text_temperature"),
        "text_topk": sampling.get("text_top_k"),
        "audio_temperature": sampling.get("audio_temperature"),
        "audio_topk": sampling.get("audio_top_k"),
        "pad_mult": query.pad_mult,
        "repetition_penalty": sampling.get("repetition_penalty"),
        "repetition_penalty_context": None,
        "lm_model_file": settings.model.checkpoint,
        "instance_name": "moshi-bridge",
        "build_info": dict.fromkeys(BUILD, ""),
        "format": query.format,
        "persona": call.session.record.persona,
        "call_sid": call.session.record.call_sid,
        "recorded": bool(call.session.stream.recording.name),
    }
