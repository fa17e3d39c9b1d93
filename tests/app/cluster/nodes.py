"""Heartbeats and settings of nodes for tests."""

from collections.abc import Mapping

from app.cluster.messages import Heartbeat
from app.config import Settings, read_settings
from app.twilio.events import CallSid

ACCOUNT, TOKEN = "AC" + "0" * 32, "5" * 32
PUBLIC = "http://phone.example.com"


def node_settings(nats_url: str, **settings: object) -> Settings:
    account = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN}
    return read_settings(**{"nats_url": nats_url, "public_url": PUBLIC, **account, **settings})


def sid(number: int) -> CallSid:
    return CallSid(f"CA{number:032d}")


def heartbeat(
    node: str,
    free: int = 8,
    boot: str = "",
    draining: bool = False,
    bye: bool = False,
    calls: Mapping[str, int] | None = None,
    checkpoint: str = "",
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
        checkpoint=checkpoint,
        calls={CallSid(call): epoch for call, epoch in (calls or {}).items()},
    )
