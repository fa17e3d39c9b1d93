"""What operators see and do from any node: doctor, calls, make-call, drain."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from app.cli.doctor.cluster import examine_cluster
from app.cli.doctor.finding import Finding, Severity
from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, SETTINGS
from app.config import read_settings
from app.setting_sources import PREFIX
from app.simulator.remote import EndCall
from tests.app.cluster.nodes import sid
from tests.nodes.cluster import Cluster, NodeProcess, cluster
from tests.nodes.nats_servers import needs_nats
from tests.twilio_rest.account import OwnedNumber
from tests.twilio_rest.callee import Callee
from tests.waiting import until

OURS, THEIRS = "+15550100000", "+15550100001"
SAYS_WITHIN_S = 90.0


async def said(nodes: Cluster, node: NodeProcess, *command: str) -> str:
    """Run a command beside a node; return what it prints, once it has ended well."""
    told = {
        **SETTINGS,
        "PORT": node.service.base_url.rpartition(":")[2],
        "PUBLIC_URL": nodes.balancer.url,
        "NODE_URL": node.service.base_url,
        "NATS_URL": nodes.nats.url,
        "TWILIO_API_URL": nodes.rest.url,
        "TWILIO_PHONE_NUMBER": OURS,
        "OPERATOR_TOKEN": "",
        "DATABASE_URL": f"sqlite:///{nodes.folder}/calls.db",
        **nodes.settings,
    }
    environment = {**os.environ, "COLUMNS": "200", **{PREFIX + name: value for name, value in told.items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(SAYS_WITHIN_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def findings(nodes: Cluster, node: NodeProcess, **changes: str) -> dict[str, Finding]:
    settings = {
        "public_url": nodes.balancer.url,
        "node_url": node.service.base_url,
        "nats_url": nodes.nats.url,
        "twilio_account_sid": ACCOUNT_SID,
        "twilio_auth_token": AUTH_TOKEN,
        **changes,
    }
    return {finding.subject: finding for finding in examine_cluster(read_settings(**settings))}


@pytest.mark.slow
@needs_nats
async def test_any_node_shows_dials_for_and_drains_all(tmp_path: Path) -> None:
    async with cluster(tmp_path, nodes=2, MAX_CALLS="1") as nodes:
        nodes.rest.account.numbers.append(OwnedNumber(OURS))
        nodes.rest.callees[THEIRS] = Callee(duration_s=600.0)
        full, free = nodes.nodes.values()
        nodes.start_calls([1])
        await nodes.until_logged({1: 1})
        if not await nodes.on_at(full):
            full, free = free, full
        examined = await asyncio.to_thread(findings, nodes, free)
        assert {subject: one.severity for subject, one in examined.items()} == {
            "NATS_URL": Severity.GOOD,
            full.name: Severity.GOOD,
            free.name: Severity.GOOD,
        }
        stranger = await asyncio.to_thread(findings, nodes, free, twilio_auth_token="6" * 32)
        assert stranger["NATS"].severity is Severity.PROBLEM

        dialling = asyncio.create_task(said(nodes, full, "-m", "scripts.make_call", THEIRS))
        placed = await until(lambda: [*nodes.rest.account.calls])
        assert await until(lambda: nodes.on_at(free)) == {*placed}, "the node beside the command was full"

        shown = await said(nodes, free, "-m", "app", "calls")
        assert "0 of 2 slots free" in shown
        assert all(part in shown for part in (full.name, free.name, sid(1)[-6:], placed[0][-6:]))

        drained = await said(nodes, full, "-m", "app", "drain", free.name, "--no-wait", "--seconds", "600")
        assert f"{free.name} drains" in drained

        async def is_seen() -> bool:
            nodes = (await full.service.get("/api/cluster"))["nodes"]
            return {node["node"]: node["state"] for node in nodes} == {full.name: "live", free.name: "draining"}

        await until(is_seen)
        for call in nodes.rest.account.calls.values():
            call.remote.send(EndCall())
        await dialling
        await nodes.end_calls()
