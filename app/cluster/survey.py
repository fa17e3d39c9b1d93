"""What a program beside the service asks of NATS: who is there, for `doctor`; that logs be deleted, for `forget`."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nats.js import JetStreamContext
from nats.js.errors import APIError

from app.cluster.bus import NATS_ERRORS, Bus
from app.cluster.log_store import LogStore
from app.cluster.messages import Heartbeat
from app.cluster.seal import Seal
from app.config import Settings
from app.twilio.events import CallSid

CONNECT_WITHIN_S = 5.0
LISTEN_S = 1.2
"""Two heartbeats and a little."""


@dataclass
class ClusterSurvey:
    """The last heartbeat of each node, how far its clock is ahead, and how JetStream is."""

    heartbeats: dict[str, Heartbeat] = field(default_factory=dict)
    clocks_ahead_s: dict[str, float] = field(default_factory=dict)
    error: str = ""
    """Why NATS was not reached, "" if it was."""
    has_jetstream: bool = False
    refused: int = 0
    """Messages that were not sealed with this account's auth token."""


async def survey_cluster(settings: Settings) -> ClusterSurvey:
    found = ClusterSurvey()

    def on_heartbeat(heartbeat: Heartbeat, _: str) -> None:
        found.heartbeats[heartbeat.node] = heartbeat
        found.clocks_ahead_s[heartbeat.node] = heartbeat.sent_s - time.time()

    try:
        async with _connected(settings) as bus:
            await bus.subscribe("hb.*", Heartbeat, on_heartbeat)
            try:
                await JetStreamContext(bus.nats).account_info()
                found.has_jetstream = True
            except APIError:
                found.has_jetstream = False
            await asyncio.sleep(LISTEN_S)
            found.refused = bus.refused
    except NATS_ERRORS as error:
        found.error = str(error) or "no answer in time"
    return found


async def purge_logs(settings: Settings, calls: Iterable[CallSid]) -> bool:
    """Delete the token logs of these calls; False if NATS does not say so of all. One that is on publishes it anew."""
    try:
        async with _connected(settings) as bus:
            logs = LogStore(bus, settings.calls.max_seconds)
            return all([await logs.purge(call_sid) for call_sid in calls])
    except NATS_ERRORS:
        return False


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Bus]:
    bus = Bus(settings.cluster, Seal(settings.twilio.auth_tokens), is_quiet=True)
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            await bus.connect()
        yield bus
    finally:
        await bus.close()
