"""What a node counts of the others and of its calls' moves; each node exports its own."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.telemetry.metrics.exposition import Family, counter, gauge, histogram

if TYPE_CHECKING:
    from app.cluster.node import ClusterNode


def cluster_families(node: "ClusterNode") -> Iterator[Family]:
    now, directory = time.monotonic(), node.member.directory
    live, silent = directory.live(now), directory.silent(now)
    draining = sum(seen.heartbeat.draining for seen in live)
    states = {"live": len(live) - draining, "draining": draining, "silent": len(silent)}
    yield gauge("nodes", "Nodes as this one sees them, by state.", states, "state")
    yield gauge("node_cut_off", "1 if this node cannot ask others: NATS is away.", node.member.is_cut_off)
    free = sum(seen.heartbeat.free for seen in live if not seen.heartbeat.draining)
    yield gauge("cluster_free_slots", "Free slots of all nodes that do not drain.", free)
    yield gauge("cluster_waiting_callers", "Callers who wait for a slot of any node.", len(node.member.callers))
    yield counter("calls_moved", "Calls that went on here, with their memory, from another node.", node.member.moved)
    help_text = "Seconds from a webhook to a slot with the call's memory, for calls from another node."
    yield histogram("call_move_seconds", help_text, node.exchange.moves_s)
    redirects = {"accepted": node.redirected, "refused": node.not_redirected}
    help_text = "Calls of silent nodes, or of this one as it drained, for which Twilio was asked to come again."
    yield counter("calls_redirected", help_text, redirects, "result")
    yield counter("calls_placed_elsewhere", "Webhooks that another node has answered.", node.exchange.placed_elsewhere)
    yield counter("calls_placed_without_nats", "Calls placed while NATS was away.", node.routing.without_nats)
    yield counter("node_messages_refused", "Messages that no node of this account has sent.", node.bus.refused)
    yield counter("token_log_records", "Records of token logs that were published.", node.logs.published)
