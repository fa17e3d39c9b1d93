"""The files for several nodes: right by the tools that read them, and true to what a node does."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import kubernetes_validate  # type: ignore[import-untyped]
import nats
import nkeys  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]
from nats.aio.client import Client

from app.cli.service_process import free_port
from app.cluster.messages import node_name
from app.config import NAMES
from tests.deploy.test_deploy import DEPLOY, ENDING_S, LONGEST_CALL_S
from tests.nodes.nats_servers import PROGRAM, needs_nats
from tests.processes.pipeline import PATIENCE_S

KUBERNETES = DEPLOY / "kubernetes"
NODES = re.findall(r"hb\.([\w-]+)", (DEPLOY / "nats" / "nodes.conf").read_text())
TLS = re.compile(r"^( *)tls \{.*?^\1\}\n", re.MULTILINE | re.DOTALL)


def resources() -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all((KUBERNETES / "bridge.yaml").read_text())


def resource(kind: str, name: str = "bridge") -> dict[str, Any]:
    [found] = [one for one in resources() if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def container() -> dict[str, Any]:
    [found] = resource("StatefulSet")["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("document", list(resources()), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_takes_every_resource(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_a_pod_is_not_killed_while_its_longest_call_is_on() -> None:
    pod = resource("StatefulSet")["spec"]["template"]["spec"]
    drain_s = next(int(one["value"]) for one in container()["env"] if one["name"] == "DRAIN_SECONDS")
    assert LONGEST_CALL_S <= drain_s < pod["terminationGracePeriodSeconds"] - ENDING_S
    assert container()["lifecycle"]["preStop"]["exec"]["command"] == ["python", "-m", "app", "drain"]
    assert resource("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_each_pod_has_a_host_name_of_its_own_that_leads_to_it() -> None:
    """As NODE_URL says it: also to a pod that drains."""
    stateful = resource("StatefulSet")
    pods = [f"bridge-{number}" for number in range(stateful["spec"]["replicas"])]
    [node_url] = [one["value"] for one in container()["env"] if one["name"] == "NODE_URL"]
    rules = {rule["host"]: rule for rule in resource("Ingress", "bridge-nodes")["spec"]["rules"]}
    for pod in pods:
        rule = rules[node_url.replace("$(POD_NAME)", pod).removeprefix("https://")]
        backend = rule["http"]["paths"][0]["backend"]["service"]["name"]
        spec = resource("Service", backend)["spec"]
        assert spec["selector"] == {"statefulset.kubernetes.io/pod-name": pod}
        assert spec["publishNotReadyAddresses"]
    assert len(rules) == len(pods)


def test_what_make_call_asks_of_the_public_url_is_let_through() -> None:
    [rule] = resource("Ingress", "bridge")["spec"]["rules"]
    [public_url] = [one["value"] for one in container()["env"] if one["name"] == "PUBLIC_URL"]
    assert public_url == f"https://{rule['host']}"
    assert {(one["path"], one["pathType"]) for one in rule["http"]["paths"]} == {
        ("/twilio", "Prefix"),
        ("/healthz", "Exact"),
    }


VALUES = (KUBERNETES / "nats-values.yaml").read_text()
SECRETS = {
    name: set(re.findall(r"--from-file=([\w.-]+)", files))
    for name, files in re.findall(r"create secret generic (\S+) (.*)", VALUES)
}
"""The files of each secret that the header of the values has one make."""


def test_what_nats_reads_is_mounted() -> None:
    """The chart's nats.conf lies in /etc/nats-config; includes are relative to it."""
    values = yaml.safe_load(VALUES)
    [volume], [mount] = ([one["value"] for one in values[part]["patch"]] for part in ("podTemplate", "container"))
    include = Path("/etc/nats-config", values["config"]["merge"]["authorization"]["$include"])
    assert volume["name"] == mount["name"]
    assert SECRETS[volume["secret"]["secretName"]] == {include.name}
    assert os.path.normpath(include.parent) == mount["mountPath"]
    for tls in (values["config"]["nats"]["tls"], values["config"]["cluster"]["tls"], values["tlsCA"]):
        assert tls["enabled"]
        assert SECRETS[tls["secretName"]] == {"ca.crt", "tls.crt", "tls.key"}


def test_what_a_node_shows_nats_is_mounted() -> None:
    """Its own key alone, under the name that NATS allows it to speak for."""
    urls = {one["name"]: one.get("value", "") for one in container()["env"]}
    spec = resource("StatefulSet")["spec"]
    [volume] = spec["template"]["spec"]["volumes"]
    mounts = {one["mountPath"]: one for one in container()["volumeMounts"] if one["name"] == volume["name"]}
    assert mounts.keys() == set(dict(parse_qsl(urls["NATS_URL"].partition("?")[2])).values())
    pods = [f"bridge-{number}" for number in range(spec["replicas"])]
    files = [str(one.get("subPath") or one["subPathExpr"]) for one in mounts.values()]
    assert {file.replace("$(POD_NAME)", pod) for file in files for pod in pods} == SECRETS[
        volume["secret"]["secretName"]
    ]
    assert [node_name(urls["NODE_URL"].replace("$(POD_NAME)", pod)) for pod in pods] == NODES


@pytest.mark.slow
def test_the_certificate_made_by_hand_is_good_for_the_servers_that_nodes_connect_to(tmp_path: Path) -> None:
    commands = re.findall(r"^#   ((?:openssl|printf) .*)", VALUES, re.MULTILINE)
    subprocess.run("\n".join(commands), shell=True, cwd=tmp_path, check=True, capture_output=True)
    [nats_url] = [one["value"] for one in container()["env"] if one["name"] == "NATS_URL"]
    for host in re.findall(r"tls://([\w.-]+):4222", nats_url):
        verify = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "-verify_hostname", host, "tls.crt"]
        subprocess.run(verify, cwd=tmp_path, check=True)


def test_settings_are_ours_and_secrets_are_not_in_the_file() -> None:
    named = {one["name"] for one in container()["env"]} - {"POD_NAME"}
    assert named <= NAMES.keys()
    assert container()["envFrom"] == [{"secretRef": {"name": "bridge"}}]
    compose = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text())
    nodes = [one for name, one in compose["services"].items() if name.startswith("node")]
    assert all(one["environment"].keys() <= NAMES.keys() for one in nodes)
    assert len({one["environment"]["NODE_URL"] for one in nodes}) == len(nodes) == 3


class Keys:
    """A user key of NATS for each node of the example."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._text = (DEPLOY / "nats" / "nodes.conf").read_text()

    def make(self, number: int) -> Path:
        """Write the seed of a node; return the file."""
        seed = nkeys.encode_seed(number.to_bytes(32, "big"), nkeys.PREFIX_BYTE_USER)
        file = self.folder / f"node-{number}.nk"
        file.write_bytes(seed)
        public = nkeys.from_seed(bytearray(seed)).public_key.decode()
        self._text = self._text.replace(f"REPLACE_{number}\n", f"{public}\n")
        return file

    def write(self) -> None:
        (self.folder / "nodes.conf").write_text(self._text)


@asynccontextmanager
async def nats_server(folder: Path) -> AsyncIterator[str]:
    """Run a server with the example's configuration, without TLS and alone; yield its URL."""
    port = free_port()
    text = TLS.sub("", (DEPLOY / "nats" / "nats.conf").read_text())
    text = re.sub(r"^cluster \{.*?^\}\n", "", text, flags=re.MULTILINE | re.DOTALL)
    text = text.replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace("http: 127.0.0.1:8222\n", "")
    (folder / "nats.conf").write_text(text)
    command = (str(PROGRAM), "-c", str(folder / "nats.conf"))
    server = await asyncio.create_subprocess_exec(*command, env={"NATS_NAME": "nats-0"})
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.kill()
        await server.wait()


async def connect(url: str, seed: Path | None, errors: list[str]) -> Client:
    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    credential = {"nkeys_seed": str(seed)} if seed else {}
    tries = {"max_reconnect_attempts": round(PATIENCE_S / 0.1), "reconnect_time_wait": 0.1}
    return await nats.connect(url, error_cb=on_error, **tries, **credential)


@needs_nats
@pytest.mark.slow
async def test_a_node_speaks_for_itself_alone_and_others_not_at_all(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    seeds = [keys.make(number) for number in range(len(NODES))]
    keys.write()
    async with nats_server(tmp_path) as url:
        errors: list[str] = []
        node = await connect(url, seeds[0], errors)
        errors.clear()  # of a server that was not up yet
        await node.publish(f"hb.{NODES[0]}", b"{}")
        await node.publish(f"slots.take.{NODES[1]}", b"{}")
        await node.subscribe(f"slots.take.{NODES[0]}")
        await node.subscribe("hb.*")
        await node.flush()
        assert errors == []
        for forbidden in (f"hb.{NODES[1]}", "anything", "$SYS.REQ.SERVER.PING", "$JS.API.STREAM.DELETE.moshi-calls"):
            await node.publish(forbidden, b"{}")
        await node.flush()
        for forbidden in (f"slots.take.{NODES[1]}", "calls.>", ">", f"_INBOX.{NODES[1]}.>"):
            await node.subscribe(forbidden)
        async with asyncio.timeout(PATIENCE_S):
            while len([error for error in errors if "permissions violation" in error]) < 8:
                await node.flush()
        await node.close()
        host, port = url.removeprefix("nats://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"CONNECT {}\r\nPUB slots.ask 2\r\n{}\r\nPING\r\n")
        answer = await reader.read()  # until the server closes the connection
        writer.close()
        assert b"-ERR 'Authorization Violation'" in answer


@needs_nats
@pytest.mark.slow
def test_nats_finds_no_fault(tmp_path: Path) -> None:
    """With TLS, three servers' routes and all; the certificate is made here."""
    keys = Keys(tmp_path)
    for number in range(len(NODES)):
        keys.make(number)
    keys.write()
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-subj", "/CN=nats-0"]
    subprocess.run([*make, *files], check=True, capture_output=True)
    shutil.copy(tmp_path / "cert.pem", tmp_path / "ca.pem")
    text = (DEPLOY / "nats" / "nats.conf").read_text().replace("/etc/nats", str(tmp_path))
    (tmp_path / "nats.conf").write_text(text)
    command = [str(PROGRAM), "-c", str(tmp_path / "nats.conf"), "-t"]
    done = subprocess.run(command, env={"NATS_NAME": "nats-0"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
