"""All nodes as one of them sees them, as JSON for the page and the commands."""

import time

from app.cluster.directory import Seen
from app.cluster.member import Member


def cluster_view(member: Member) -> dict[str, object]:
    """Return the nodes by name, and the last calls that went on at another node."""
    now = time.monotonic()
    nodes = member.directory.nodes()
    moves = {(move.call, move.moved_s): (move, seen.heartbeat.node) for seen in nodes for move in seen.heartbeat.moves}
    return {
        "node": member.name,
        "connected": member.is_connected,
        "cut_off": member.is_cut_off,
        "waiting": len(member.callers),
        "slots": sum(seen.heartbeat.slots for seen in nodes if not seen.is_silent(now)),
        "free_slots": sum(
            seen.heartbeat.free for seen in nodes if not (seen.is_silent(now) or seen.heartbeat.draining)
        ),
        "nodes": [_node(seen, now, member) for seen in nodes],
        "moves": [
            {"call_sid": move.call, "from": move.from_node, "to": to, "moved_s": move.moved_s, "steps": move.steps}
            for _, (move, to) in sorted(moves.items(), key=lambda one: one[0][1])
        ],
    }


def _node(seen: Seen, now: float, member: Member) -> dict[str, object]:
    heartbeat = seen.heartbeat
    state = "silent" if seen.is_silent(now) else "draining" if heartbeat.draining else "live"
    return {
        "node": heartbeat.node,
        "boot": heartbeat.boot,
        "url": heartbeat.url,
        "state": state,
        "version": heartbeat.version,
        "checkpoint": heartbeat.checkpoint,
        "slots": heartbeat.slots,
        "free_slots": heartbeat.free,
        "calls": sorted(call for call, _ in member.directory.calls_of(seen)),
        "heard_s_ago": round(now - seen.received_s, 2),
        "clock_ahead_s": round(member.clocks_ahead_s.get(heartbeat.boot, 0.0), 3),
    }
