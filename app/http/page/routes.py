"""`GET /`: the page, for operators; others are asked for the token, if there is one."""

import time
from html import escape
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.http.operator_auth import OperatorAuth, is_own_page
from app.http.session_cookie import COOKIE, GOOD_FOR_S
from app.http.webhooks import read_body

ASSETS = Path(__file__).parent / "assets"
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_EVERYBODY = {"page.css", "icon.svg"}
"""What the form to sign in needs."""
MAX_FORM_BYTES = 4_096
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # else a form of our own would have no origin
    "Cross-Origin-Opener-Policy": "same-origin",
}
SIGNED_IN = ('<html lang="en">', '<html lang="en" class="signed-in">')
WRONG = ("<!-- wrong -->", '<p class="wrong" role="alert">{}</p>')


def build_page_router(operators: OperatorAuth) -> APIRouter:
    """Return the routes of the page and its files, which are read once."""
    router = APIRouter()
    files = {path.name: path.read_bytes() for path in ASSETS.iterdir() if path.suffix in MEDIA_TYPES}
    page, form = ((ASSETS / name).read_text("utf-8") for name in ("index.html", "login.html"))

    @router.get("/")
    async def index(request: Request) -> Response:
        if not operators.is_operator(request):
            return _to_sign_in(request, operators)
        return HTMLResponse(page.replace(*SIGNED_IN) if operators.is_signed_in(request) else page, headers=HEADERS)

    @router.get("/page/{name}")
    async def asset(request: Request, name: str) -> Response:
        if name not in FOR_EVERYBODY:
            operators.require(request)
        if name not in files:
            raise HTTPException(404, "no such file")
        return Response(files[name], media_type=MEDIA_TYPES[Path(name).suffix])

    @router.get("/login")
    async def ask_token(request: Request) -> Response:
        return HTMLResponse(form, headers=HEADERS) if operators.has_token else _to_sign_in(request, operators)

    @router.post("/login")
    async def sign_in(request: Request) -> Response:
        try:
            operators.require_token(request, await _token(request))
        except HTTPException as refusal:
            told = form.replace(WRONG[0], WRONG[1].format(escape(refusal.detail)))
            return HTMLResponse(told, refusal.status_code, {**HEADERS, **(refusal.headers or {})})
        answer = RedirectResponse("./", HTTPStatus.SEE_OTHER)
        cookie, is_secure = operators.session_cookie.issue(time.time()), request.url.scheme == "https"
        answer.set_cookie(COOKIE, cookie, GOOD_FOR_S, httponly=True, samesite="strict", secure=is_secure)
        return answer

    @router.post("/logout")
    async def sign_out(request: Request) -> Response:
        if not is_own_page(request):
            raise HTTPException(403, "not for pages of other sites")
        answer = RedirectResponse("login", HTTPStatus.SEE_OTHER)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer

    return router


def _to_sign_in(request: Request, operators: OperatorAuth) -> Response:
    """Send a stranger to the form; without a token nobody may come from elsewhere. Raises HTTPException."""
    if not operators.has_token:
        operators.require(request)
        return RedirectResponse("./", HTTPStatus.SEE_OTHER)  # at this machine, where nobody need sign in
    return RedirectResponse("login", HTTPStatus.SEE_OTHER)


async def _token(request: Request) -> str:
    try:
        body = await read_body(request, MAX_FORM_BYTES)
    except TimeoutError as error:
        raise HTTPException(408, "the form did not arrive in time") from error
    if body is None:
        raise HTTPException(413, "the form is too large")
    return parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
