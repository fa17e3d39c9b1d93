"""Twilio's routes for those who wait in line."""

from fastapi import APIRouter, Request, Response

from app.calls.router import CallRouter
from app.http.paths import AFTER_WAIT_PATH, WAIT_PATH
from app.http.routes import twiml_response
from app.http.webhooks import Webhooks


def build_wait_router(webhooks: Webhooks, call_router: CallRouter) -> APIRouter:
    """Return the routes of the wait page, and of what follows it."""
    router = APIRouter()

    @router.post(WAIT_PATH)
    async def wait(request: Request) -> Response:
        return twiml_response(call_router.wait(await webhooks.read(request)))

    @router.post(AFTER_WAIT_PATH)
    async def after_wait(request: Request) -> Response:
        return twiml_response(call_router.after_wait(await webhooks.read(request)))

    return router
