"""`GET /talk`: a page on which one talks with Moshi, for whoever may chat. Its sound goes over `/api/chat`."""

from html import escape

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.calls.manager import CallManager
from app.config import RecordCalls, Settings
from app.http.chat_routes import CHAT_SID, ChatAuth
from app.http.operator_auth import OperatorAuth
from app.http.page.routes import ASSETS, HEADERS
from app.http.persona_routes import PersonaSource
from app.telemetry.live import latency_ms
from app.twilio.events import CallSid

NO_REFERRER = {**HEADERS, "Referrer-Policy": "no-referrer"}
"""The page's URL may have a token in it."""
OPERATOR_LINK = '<a href="./">Operator page</a>'
RECORDED = "Calls are recorded here."


def build_talk_router(
    settings: Settings, auth: ChatAuth, operators: OperatorAuth, manager: CallManager, personas: PersonaSource
) -> APIRouter:
    router = APIRouter(prefix="/talk", include_in_schema=False)
    page = (ASSETS / "talk.html").read_text("utf-8")
    records_all = settings.recording.folder is not None and settings.recording.calls is RecordCalls.ALL

    @router.get("")
    async def talk(request: Request) -> Response:
        if not settings.chat.enabled:
            raise HTTPException(404, "there is no chat here: CHAT is false")
        is_operator = operators.is_operator(request)
        if not is_operator and operators.has_token and "token" not in request.query_params:
            return RedirectResponse("login", 303)
        auth.require(request)
        await personas.refresh()
        parts = {
            "operator": OPERATOR_LINK if is_operator else "",
            "personas": "".join(map(_option, personas.as_json())),
            "recorded": RECORDED if records_all else "",
        }
        return HTMLResponse(_fill(page, parts), headers=NO_REFERRER)

    @router.get("/{call_sid}/latency")
    async def latency(request: Request, call_sid: CallSid) -> dict[str, float | None]:
        auth.require(request)
        record = manager.record(call_sid)
        if record is None or not call_sid.startswith(CHAT_SID):
            raise HTTPException(404, "no such chat")
        return {"latency_ms": latency_ms(record)}

    return router


def _option(persona: dict[str, object]) -> str:
    return f"<option{' selected' if persona['default'] else ''}>{escape(str(persona['name']))}</option>"


def _fill(page: str, parts: dict[str, str]) -> str:
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    return page
