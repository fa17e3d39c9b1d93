"""`/api/cluster`: all nodes as this one sees them, and a drain of any of them."""

from typing import Protocol

from fastapi import APIRouter, Depends, HTTPException

from app.http.operator_auth import OperatorAuth
from app.http.operator_routes import DrainSeconds


class ClusterControl(Protocol):
    """What one node knows of all, and can have them do."""

    def view(self) -> dict[str, object]: ...

    async def drain(self, node: str, seconds: int | None) -> bool:
        """Have a node drain; False if there is none of this name, or NATS is away."""


def build_cluster_router(auth: OperatorAuth, control: ClusterControl | None) -> APIRouter:
    """Return the routes; without `control` there is one machine alone."""
    router = APIRouter(
        prefix="/api/cluster", dependencies=[Depends(auth.require)], include_in_schema=control is not None
    )

    @router.get("")
    async def view() -> dict[str, object]:
        if control is None:
            raise HTTPException(404, "this service is one machine alone: NATS_URL is not set")
        return control.view()

    @router.post("/{node}/drain", status_code=202)
    async def drain(node: str, seconds: DrainSeconds = None) -> dict[str, object]:
        if control is None or not await control.drain(node, seconds):
            raise HTTPException(404, "there is no such node, or NATS is away")
        return {"node": node}

    return router
