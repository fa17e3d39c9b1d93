"""`GET /api/openapi.json`: the description of the routes for operators, generated from the routes themselves."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.routing import BaseRoute

from app.http.operator_auth import OperatorAuth

VERSION = "1"
ABOUT = "For operators: from the machine itself, or with OPERATOR_TOKEN. Sockets and webhooks: docs/api.md."


def build_openapi_router(auth: OperatorAuth, routes: Sequence[BaseRoute]) -> APIRouter:
    """`routes` are all routes of the application; those of Twilio and of the page keep themselves out."""
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)], include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi() -> JSONResponse:
        return JSONResponse(describe(routes))

    return router


def describe(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    found = get_openapi(title="moshi-bridge", version=VERSION, description=ABOUT, routes=routes)
    found["components"]["securitySchemes"] = {"operator": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{}, {"operator": []}]
    return found
