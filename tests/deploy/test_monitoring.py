"""What watches the service: the dashboard and the alert rules name what there is, and the rules do what they say."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from app.calls.end_reason import ERRORS, EndReason
from app.calls.router import RejectReason
from app.config import Settings
from app.server.service import Service
from tests.service.front import front_settings

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
STORIES = Path(__file__).parent / "alerts_test.yml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed")


NOT_SHOWN = {
    *("build_info", "call_duration_seconds", "draining", "dtmf_total", "node_messages_refused_total"),
    *("packets_in_total", "server_session_limit", "token_log_records_total", "worker_hangs_total"),
}
"""Metrics that need no panel."""


async def families(folder: Path) -> dict[str, str]:
    """Return the names of all metrics that services tell of, with their kinds."""
    everything = front_settings(
        codec="numpy",
        transcribe="synthetic:stt",
        database_url=f"sqlite:///{folder}/calls.db",
        recordings_dir=str(folder),
        traces_endpoint="http://127.0.0.1:9/v1/traces",
        webhook_url="http://127.0.0.1:9/",
        webhook_secret="a-secret-of-so-many-letters",
        nats_url="nats://127.0.0.1:9",
        node_url="https://one.example.com",
    )
    found: dict[str, str] = {}
    for settings in (everything, front_settings(engine="remote", moshi_servers="ws://127.0.0.1:9")):
        transport = httpx.ASGITransport(Service(settings, lambda _: None).app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            page = (await http.get("/metrics")).raise_for_status().text
        found |= dict(re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE))
    return found


def samples(name: str, kind: str) -> set[str]:
    return {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return parsed


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bmoshi_bridge_\w+", expression))


def matched(expression: str, metric: str) -> set[str]:
    """Return the values of `reason` that an expression asks for."""
    asked = re.findall(metric + r'\{[^}]*reason=~?"([^"]*)"', expression)
    return {value for values in asked for value in values.split("|")}


async def test_every_number_that_a_rule_or_a_panel_names_is_there(tmp_path: Path) -> None:
    there = {one for name, kind in (await families(tmp_path)).items() for one in samples(name, kind)}
    expressions = [rule["expr"] for rule in rules()]
    expressions += [target["expr"] for panel in panels() for target in panel["targets"]]
    missing = {name for expression in expressions for name in named(expression)} - there
    assert missing == set()
    assert all(named(expression) or re.search(r"\bup\{", expression) for expression in expressions)


async def test_every_metric_has_a_panel(tmp_path: Path) -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in named(target["expr"])}
    hidden = {name for name, kind in (await families(tmp_path)).items() if not samples(name, kind) & shown}
    assert hidden == {f"moshi_bridge_{name}" for name in NOT_SHOWN}


def test_a_rule_counts_the_ends_that_nobody_wanted() -> None:
    (rule,) = (rule for rule in rules() if rule["alert"] == "MoshiBridgeCallsEndBadly")
    assert (
        matched(rule["expr"], "streams_ended_total")
        == {reason.name.lower() for reason in ERRORS}
        <= {reason.name.lower() for reason in EndReason}
    )
    (rule,) = (rule for rule in rules() if rule["alert"] == "MoshiBridgeNoFreeSlots")
    assert matched(rule["expr"], "calls_turned_down_total") == {RejectReason.BUSY}


def test_every_rule_says_what_happened_what_callers_notice_and_what_to_do() -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description", "action"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_the_stories_expect_every_rule_to_fire() -> None:
    stories = yaml.safe_load(STORIES.read_text())["tests"]
    asked = [one for story in stories for one in story.get("alert_rule_test", ())]
    fires = {one["alertname"] for one in asked if one.get("exp_alerts")}
    fires |= set(re.findall(r'labels: .*alertname="(\w+)"', STORIES.read_text()))
    assert fires == {rule["alert"] for rule in rules()}


def test_the_dashboard_can_be_imported_beside_others_and_for_any_data_source() -> None:
    found = dashboard()
    variables = {variable["name"]: variable for variable in found["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert "id" not in found
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert "$instance" in target["expr"], panel["title"]


def test_no_two_panels_lie_on_one_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def promtool(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    assert PROMTOOL
    return subprocess.run([PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, check=False)


@needs_promtool
def test_promtool_accepts_the_rules_and_the_configuration(tmp_path: Path) -> None:
    done = promtool("check", "config", "prometheus.yml", folder=DEPLOY)
    assert done.returncode == 0, done.stderr
    assert f"{len(rules())} rules found" in done.stdout


@needs_promtool
def test_the_rules_do_what_their_stories_say(tmp_path: Path) -> None:
    for source in (DEPLOY / "alerts.yml", STORIES):
        shutil.copy(source, tmp_path)
    done = promtool("test", "rules", STORIES.name, folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout


@needs_promtool
def test_promql_of_every_panel_can_be_parsed(tmp_path: Path) -> None:
    """As rules that record, with Grafana's variables filled in."""
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    filled = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in expressions]
    recorded = [{"record": f"panel:number_{number}", "expr": text} for number, text in enumerate(filled)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    done = promtool("check", "rules", "panels.yml", folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_prometheus_asks_where_the_service_listens_by_default() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{Settings().server.host}:{Settings().server.port}"]}]
    assert job.get("metrics_path", "/metrics") == "/metrics"
    assert job["job_name"] == "moshi-bridge", "the rule for a service that is gone asks for it"
