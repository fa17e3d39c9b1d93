"""Checks of the nodes: NATS, the other nodes' clocks and versions, and whether their NODE_URL leads to them."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.cli.doctor.finding import Finding, good, note, problem
from app.config import Settings
from app.http.selftest import ProbeFailed, probe

if TYPE_CHECKING:
    from app.cluster.messages import Heartbeat
    from app.cluster.survey import ClusterSurvey

MOST_SKEW_S = 2.0
"""A fallback token is good for 20 s."""


def examine_cluster(settings: Settings) -> Iterator[Finding]:
    """Check nothing without NATS_URL."""
    if not settings.cluster.nats_url:
        return
    try:
        from app.cluster.survey import survey_cluster
    except ModuleNotFoundError as error:
        yield problem("NATS", f"missing: {error.name}", "pip install 'moshi-bridge[cluster]'")
        return
    survey = asyncio.run(survey_cluster(settings))
    yield from _nats(survey)
    for node, heartbeat in sorted(survey.heartbeats.items()):
        yield _node(settings, heartbeat, survey.clocks_ahead_s[node])
    yield from _versions(survey)


def _nats(survey: "ClusterSurvey") -> Iterator[Finding]:
    if survey.error:
        yield problem("NATS_URL", survey.error, "is nats-server up, and the credential right?")
        return
    yield good("NATS_URL", f"reached; {len(survey.heartbeats)} nodes are heard")
    if not survey.has_jetstream:
        yield problem("JetStream", "is off: calls that move forget all", "nats-server -js")
    if survey.refused:
        yield problem("NATS", f"{survey.refused} messages are not of this account", "TWILIO_AUTH_TOKEN, at all nodes")


def _node(settings: Settings, heartbeat: "Heartbeat", ahead_s: float) -> Finding:
    """Check the clock of a node, and open a signed socket at its NODE_URL from here."""
    if abs(ahead_s) > MOST_SKEW_S:
        return problem(heartbeat.node, f"its clock is {ahead_s:+.1f} s off this one's", "run NTP on both")
    token = next(iter(settings.twilio.auth_tokens), None)
    try:
        asyncio.run(probe(heartbeat.url, token, heartbeat.boot))
    except ProbeFailed as error:
        return problem(heartbeat.node, str(error), "NODE_URL must lead to that node")
    return good(
        heartbeat.node,
        f"{heartbeat.url} leads there; {heartbeat.free} of {heartbeat.slots} slots free, {heartbeat.version}",
    )


def _versions(survey: "ClusterSurvey") -> Iterator[Finding]:
    for subject, values in (
        ("versions", {heartbeat.version for heartbeat in survey.heartbeats.values()}),
        ("checkpoints", {heartbeat.checkpoint for heartbeat in survey.heartbeats.values() if heartbeat.slots}),
    ):
        if len(values) > 1:
            advice = "calls go on only where the checkpoint is the same" if subject == "checkpoints" else ""
            yield note(
                subject, f"{len(values)} different ones: {', '.join(sorted(one[:16] for one in values))}", advice
            )
