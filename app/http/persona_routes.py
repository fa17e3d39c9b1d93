"""The personas of the running service, for operators."""

from typing import Protocol

from fastapi import APIRouter, Depends

from app.http import api_schemas as api
from app.http.operator_auth import OperatorAuth


class PersonaSource(Protocol):
    async def refresh(self) -> None:
        """Read what has changed since the last call; to be awaited before each call is answered."""

    def as_json(self) -> list[dict[str, object]]: ...

    async def prepare_once(self, text: str, name: str, voice: str = "") -> str:
        """Compute a prompt for one call of a persona; return its id. Raises PromptRejected, PromptUnavailable.

        Without text or voice they are the persona's.
        """

    def drop_once(self, prompt: str) -> None:
        """Drop a prompt for one call that does not come."""


def build_persona_router(auth: OperatorAuth, personas: PersonaSource) -> APIRouter:
    router = APIRouter(prefix="/api", dependencies=[Depends(auth.require)])

    @router.get("/personas", response_model=list[api.Persona])
    async def list_personas() -> list[dict[str, object]]:
        await personas.refresh()
        return personas.as_json()

    return router
