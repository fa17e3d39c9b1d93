"""The web application: every route over the parts of one service."""

from collections.abc import Callable, Iterable

from fastapi import FastAPI, Request, WebSocket
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from app.calls.drain import Drain
from app.calls.manager import CallManager
from app.calls.router import CallRouter
from app.calls.routing import Routing
from app.config import Settings
from app.http.call_routes import TransferCall, build_call_router
from app.http.chat_routes import ChatAuth, build_chat_router
from app.http.cluster_routes import ClusterControl, build_cluster_router
from app.http.headers import deny
from app.http.history_routes import build_history_router, build_recording_router
from app.http.operator_auth import OperatorAuth
from app.http.operator_routes import build_health_router, build_live_router, build_openapi_router, build_operator_router
from app.http.page.routes import build_page_router
from app.http.paths import TwilioPaths
from app.http.persona_routes import PersonaSource, build_persona_router
from app.http.rate_limit import RateLimiter
from app.http.selftest import build_selftest_router
from app.http.talk_routes import build_talk_router
from app.http.twilio_routes import Webhooks, build_media_router, build_twilio_router
from app.telemetry.call_log.address import find_address
from app.telemetry.event_loop_lag import EventLoopLag
from app.telemetry.live import LiveView
from app.telemetry.metrics.exposition import Family
from app.twilio.public_address import PublicAddress


def build_app(
    settings: Settings,
    *,
    public: PublicAddress,
    manager: CallManager,
    call_router: CallRouter,
    routing: Routing,
    drain: Drain,
    lag: EventLoopLag,
    live: LiveView,
    limiter: RateLimiter,
    metrics: Callable[[], Iterable[Family]],
    personas: PersonaSource,
    transfer: TransferCall,
    cluster: ClusterControl | None = None,
) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(TwilioPaths, public=public, limiter=limiter)
    app.add_exception_handler(HTTPException, _refuse)  # type: ignore[arg-type]  # typed for one kind of connection
    webhooks = Webhooks(public, settings.twilio.account_sid, limiter)
    auth = OperatorAuth(settings.operators.token, limiter)
    chat_auth = ChatAuth(settings.chat.token, auth, limiter)
    for router in (
        build_twilio_router(webhooks, routing, personas.refresh),
        build_media_router(webhooks, routing),
        build_selftest_router(public, webhooks),
        build_health_router(manager, metrics, auth),
        build_operator_router(auth, manager, drain, lag, public, settings.calls.max_seconds),
        build_call_router(auth, manager, transfer),
        build_live_router(auth, manager, live),
        build_cluster_router(auth, cluster),
        build_persona_router(auth, personas),
        build_recording_router(settings.recording.folder, auth),
        build_history_router(auth, find_address(settings)),
        build_chat_router(settings, chat_auth, limiter, manager, call_router, personas),
        build_talk_router(settings, chat_auth, auth, manager, personas),
        build_page_router(auth, settings.chat.enabled),
    ):
        app.include_router(router)
    app.include_router(build_openapi_router(auth, app.routes))
    return app


async def _refuse(connection: Request | WebSocket, error: Exception) -> Response | None:
    assert isinstance(error, HTTPException)
    if isinstance(connection, Request):
        return await http_exception_handler(connection, error)
    await deny(connection, error)
    return None
