"""`GET /`: the operator page and its login; static files without a build step.

The page reads `/api/live` (pushed over a WebSocket, polled where that does not get through), `/api/history` and the
events of a call. It loads nothing from other hosts.
"""

import time
from html import escape
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.http.operator_auth import COOKIE, VALID_FOR_S, OperatorAuth
from app.http.twilio_routes import read_body

ASSETS = Path(__file__).parent / "assets"
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
TALK_FILES = {"talk.css", "talk.js", "audio.js", "chat.js", "format.js", "meters.js", "worklet.js"}
PUBLIC_FILES = {"page.css", "icon.svg"} | TALK_FILES
"""What the login form needs, and the talk page, which whoever has CHAT_TOKEN may open: a module's URL has no token."""
MAX_FORM_BYTES = 4_096
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # `no-referrer` would send our own forms without an Origin
    "Cross-Origin-Opener-Policy": "same-origin",
}
SIGNED_IN = ('<html lang="en">', '<html lang="en" class="signed-in">')
TALK_LINK = ("<!-- talk -->", '<a href="talk">Talk</a>')
ERROR = ("<!-- wrong -->", '<p class="wrong" role="alert">{}</p>')


def build_page_router(auth: OperatorAuth, has_talk: bool = True) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    files = {path.name: path.read_bytes() for path in ASSETS.iterdir() if path.suffix in MEDIA_TYPES}
    page = (ASSETS / "index.html").read_text("utf-8")
    if has_talk:
        page = page.replace(*TALK_LINK)

    @router.get("/")
    async def index(request: Request) -> Response:
        if not auth.is_operator(request):
            return _redirect_to_login(request, auth)
        return HTMLResponse(page.replace(*SIGNED_IN) if auth.is_signed_in(request) else page, headers=HEADERS)

    @router.get("/page/{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in PUBLIC_FILES:
            auth.require(request)
        if name not in files:
            raise HTTPException(404, "no such file")
        return Response(files[name], media_type=MEDIA_TYPES[Path(name).suffix])

    router.include_router(_build_login_router(auth))
    return router


def _build_login_router(auth: OperatorAuth) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    form = (ASSETS / "login.html").read_text("utf-8")

    @router.get("/login")
    async def login_form(request: Request) -> Response:
        return HTMLResponse(form, headers=HEADERS) if auth.has_token else _redirect_to_login(request, auth)

    @router.post("/login")
    async def sign_in(request: Request) -> Response:
        try:
            auth.require_token(request, await _token(request))
        except HTTPException as refusal:
            page_text = form.replace(ERROR[0], ERROR[1].format(escape(refusal.detail)))
            return HTMLResponse(page_text, refusal.status_code, {**HEADERS, **(refusal.headers or {})})
        answer = RedirectResponse("./", HTTPStatus.SEE_OTHER)
        cookie, is_secure = auth.issue_cookie(time.time()), request.url.scheme == "https"
        answer.set_cookie(COOKIE, cookie, VALID_FOR_S, httponly=True, samesite="strict", secure=is_secure)
        return answer

    @router.post("/logout")
    async def sign_out(request: Request) -> Response:
        auth.require_own_page(request)
        answer = RedirectResponse("login", HTTPStatus.SEE_OTHER)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer

    return router


def _redirect_to_login(request: Request, auth: OperatorAuth) -> Response:
    """Redirect to the login form; raise HTTPException if there is no token to log in with."""
    if not auth.has_token:
        auth.require(request)
        return RedirectResponse("./", HTTPStatus.SEE_OTHER)  # at this machine no login is needed
    return RedirectResponse("login", HTTPStatus.SEE_OTHER)


async def _token(request: Request) -> str:
    try:
        body = await read_body(request, MAX_FORM_BYTES)
    except TimeoutError as error:
        raise HTTPException(408, "the form did not arrive in time") from error
    if body is None:
        raise HTTPException(413, "the form is too large")
    return parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
