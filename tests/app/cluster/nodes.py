"""Heartbeats of nodes for tests."""

from collections.abc import Mapping

from app.cluster.messages import Heartbeat
from app.twilio.events import CallSid


def sid(number: int) -> CallSid:
    return CallSid(f"CA{number:032d}")


def beat(
    node: str,
    free: int = 8,
    boot: str = "",
    draining: bool = False,
    bye: bool = False,
    calls: Mapping[str, int] | None = None,
) -> Heartbeat:
    """Return a heartbeat; `calls` with their epochs."""
    return Heartbeat(
        node=node,
        boot=boot or f"{node}-1",
        url=f"https://{node}.example.com",
        slots=8,
        free=free,
        draining=draining,
        bye=bye,
        calls={CallSid(call): epoch for call, epoch in (calls or {}).items()},
    )
