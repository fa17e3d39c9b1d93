"""A node with the permissions of the example can do all that a node does, and `forget` can delete its logs.

Logs are kept for the longest calls that any node allows, also when one comes later.
"""

import logging
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from app.calls.conversation import STEP_BYTES
from app.cluster.log_store import SPARE_S, STREAM, LogStore
from app.cluster.survey import purge_logs, survey_cluster
from tests.app.cluster.nodes import node_settings, sid
from tests.deploy.test_cluster import NODES, Keys, nats_server
from tests.nodes.light import LightNode, Redirects, running_nodes
from tests.nodes.nats_servers import needs_nats
from tests.waiting import until

pytestmark = [pytest.mark.slow, needs_nats]

STEPS = 30


def node_urls() -> list[str]:
    """Return the NODE_URL of each node of the example."""
    return [f"https://{name.replace('-example-com', '.example.com')}" for name in NODES[:2]]


async def test_the_permissions_of_the_example_are_enough_for_all_that_a_node_and_forget_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "app.cluster.bus")
    keys = Keys(tmp_path)
    seeds = [keys.make(number) for number in range(len(NODES))]
    keys.write()
    async with nats_server(tmp_path) as url:
        urls = [f"{url}?nkey={seed}" for seed in seeds]
        redirects, places = Redirects(), node_urls()
        made = [
            LightNode(nats, n, redirects, node_url=place)
            for n, (nats, place) in enumerate(zip(urls, places, strict=False))
        ]
        async with running_nodes(made, redirects) as nodes:
            verb = await nodes.nodes[0].answer(sid(1))
            first = nodes.of(verb)
            call = first.begin(verb, sid(1))
            for _ in range(STEPS):
                call.session.conversation.add_step(bytes(STEP_BYTES))
            await nodes.until_logged(sid(1), STEPS)
            assert await purge_logs(node_settings(urls[0], node_url=places[0]), [sid(1)])
            assert await first.node.logs.read(sid(1)) == (0, None)
            stream = JetStreamContext(first.node.bus.nats)
            for call_s in (7_200.0, 3_600.0):
                await LogStore(first.node.bus, call_s).prepare()
                assert (await stream.stream_info(STREAM)).config.max_age == 7_200.0 + SPARE_S
            other = next(node for node in nodes.nodes if node is not first)
            assert await other.node.drain(first.name, 0)
            await until(lambda: first.manager.draining)
            survey = await survey_cluster(node_settings(urls[1], node_url=places[1]))
            assert (survey.error, survey.has_jetstream, survey.refused) == ("", True, 0)
            assert survey.heartbeats.keys() == {node.name for node in nodes.nodes}
            refused = await survey_cluster(node_settings(url, node_url=places[1]))
            assert refused.error
    assert [line for line in caplog.messages if "permissions violation" in line] == []


async def test_forget_knows_that_nats_has_not_deleted_a_log(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    seed, *_ = [keys.make(number) for number in range(len(NODES))]
    keys.write()
    conf = tmp_path / "nodes.conf"
    conf.write_text(conf.read_text().replace("STREAM.PURGE", "STREAM.OTHER"))
    async with nats_server(tmp_path) as url:
        assert not await purge_logs(node_settings(f"{url}?nkey={seed}", node_url=node_urls()[0]), [sid(1)])
