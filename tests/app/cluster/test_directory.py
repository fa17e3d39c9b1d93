"""Who is there and who owns what, as heard; the three faults of the first version, each by name."""

import pytest

from app.cluster.directory import HEARTBEAT_S, REMEMBERED_S, SETTLE_S, SILENT_S, Directory
from app.cluster.failover import NEXT_AFTER_S, Failover, rendezvous
from app.cluster.messages import FRESH_S, Heartbeat
from app.twilio.events import CallSid
from tests.app.cluster.nodes import heartbeat, sid

ONE = CallSid("CA1")
CALLS: dict[str, int] = {f"CA{number}": 1 for number in range(200)}


class Node:
    """One node's view, which hears itself and `others` every half second unless told otherwise."""

    def __init__(self, name: str = "a") -> None:
        self.directory = Directory(name, f"{name}-1")
        self.failover = Failover(self.directory)
        self.now = 0.0
        self.redirected: list[tuple[float, str]] = []

    def run(self, seconds: float, *heartbeats: Heartbeat, isolated: bool = False) -> None:
        """Let time pass in heartbeats, at each of which these come, and the failover is asked."""
        for _ in range(round(seconds / HEARTBEAT_S)):
            self.now += HEARTBEAT_S
            if not isolated:
                self.directory.on_heartbeat(heartbeat(self.directory.name), self.now)
                for one in heartbeats:
                    self.directory.on_heartbeat(one, self.now)
            self.redirected += [(self.now, call) for call, _ in self.failover.due(self.now)]

    @property
    def moved(self) -> list[str]:
        return [call for _, call in self.redirected]


def test_fault_a_a_call_that_moved_itself_is_not_redirected_because_the_newest_owner_wins() -> None:
    node = Node()
    node.run(5, heartbeat("b", calls={"CA1": 1, "CA2": 1}), heartbeat("c"))
    node.run(5, heartbeat("c", calls={"CA1": 2}))  # b is killed; Twilio asked `action`, and c took CA1
    assert node.moved == ["CA2"]
    owner = node.directory.owner(ONE)
    assert owner
    assert (owner.node, owner.epoch) == ("c", 2)


def test_fault_a_a_node_that_wakes_up_late_does_not_get_its_calls_back() -> None:
    node = Node()
    node.run(5, heartbeat("b", calls={"CA1": 1}), heartbeat("c"))
    node.run(5, heartbeat("c", calls={"CA1": 2}))
    node.run(1, heartbeat("b", calls={"CA1": 1}), heartbeat("c", calls={"CA1": 2}))
    owner = node.directory.owner(ONE)
    assert owner
    assert owner.node == "c"
    assert Directory("b", "b-1", _owners={ONE: owner}).lost_calls({ONE: 1}) == [ONE]


def test_fault_b_a_node_that_cannot_hear_itself_moves_nothing() -> None:
    node = Node()
    node.run(5, heartbeat("b", calls=CALLS), heartbeat("c", calls={"CAx": 1}))
    node.run(60, isolated=True)
    assert node.moved == []
    assert node.directory.is_isolated(node.now)


@pytest.mark.parametrize("phase_ms", range(0, 500, 50))
def test_fault_b_a_node_that_is_cut_off_is_isolated_before_others_fall_silent(phase_ms: int) -> None:
    """Heartbeats of others come at any time between its own."""
    directory = Directory("a", "a-1")
    failover, moved = Failover(directory), list[object]()
    for ms in range(0, 20_000, 10):
        if ms < 10_000 and ms % 500 == 0:
            directory.on_heartbeat(heartbeat("a"), ms / 1000)
        if ms < 10_000 and ms % 500 == phase_ms:
            directory.on_heartbeat(heartbeat("b", calls=CALLS), ms / 1000)
        moved += failover.due(ms / 1000)
    assert moved == []


def test_fault_b_after_reconnecting_it_waits_two_intervals_before_it_believes_in_silence() -> None:
    node = Node()
    node.run(5, heartbeat("b", calls=CALLS))
    node.directory.on_disconnect()
    node.run(20, isolated=True)
    node.run(SETTLE_S)  # b's heartbeats take as long as we wait
    node.run(10, heartbeat("b", calls=CALLS))
    assert node.moved == []
    assert SETTLE_S >= 2 * HEARTBEAT_S


def test_fault_b_a_node_that_stays_silent_after_that_is_dead() -> None:
    node = Node()
    node.run(5, heartbeat("b", calls=CALLS))
    node.directory.on_disconnect()
    node.run(20, isolated=True)
    node.run(10)
    assert sorted(node.moved) == sorted(CALLS)


def test_fault_c_a_node_that_has_said_bye_leaves_no_calls_to_move() -> None:
    node = Node()
    node.run(5, heartbeat("b", draining=True, calls={"CA1": 1}))
    node.directory.on_heartbeat(heartbeat("b", bye=True), node.now)
    node.run(10)
    assert node.moved == []
    assert node.directory.owner(ONE) is None
    assert [seen.heartbeat.node for seen in node.directory.nodes()] == ["a"]


def test_the_calls_of_a_silent_node_are_moved_once_each_by_the_first_and_then_the_next() -> None:
    nodes = [Node(name) for name in "acd"]
    for node in nodes:
        others = [heartbeat(name) for name in "acd" if name != node.directory.name]
        node.run(10, heartbeat("b", calls=CALLS), *others)
        node.run(6, *others)
    for call in CALLS:
        when = {node.directory.name: moment for node in nodes for moment, one in node.redirected if one == call}
        order = rendezvous(call, "acd")
        assert [node.moved.count(call) for node in nodes] == [1, 1, 1]
        assert 10 + SILENT_S <= when[order[0]] <= 10 + SILENT_S + 2 * HEARTBEAT_S
        assert [round(when[order[place]] - when[order[0]], 3) for place in (1, 2)] == [NEXT_AFTER_S, 2 * NEXT_AFTER_S]
    first = [rendezvous(call, "acd")[0] for call in CALLS]
    assert all(first.count(name) > len(CALLS) / 5 for name in "acd")


def test_the_next_in_order_does_nothing_once_the_owner_has_changed() -> None:
    node = Node()
    later = [call for call in CALLS if rendezvous(call, "ac")[0] == "c"]
    node.run(10, heartbeat("b", calls=CALLS), heartbeat("c"))
    node.run(SILENT_S + HEARTBEAT_S, heartbeat("c"))
    node.run(10, heartbeat("c", calls=dict.fromkeys(later, 2)))
    assert sorted(node.moved) == sorted(set(CALLS) - set(later))


def test_a_process_of_the_same_name_tells_that_the_earlier_one_is_dead() -> None:
    node = Node()
    node.run(5, heartbeat("b", calls=CALLS))
    node.run(HEARTBEAT_S, heartbeat("b", boot="b-2"))
    first = {call for call in CALLS if rendezvous(call, ["a", "b"])[0] == "a"}
    assert set(node.moved) == first


def test_silent_nodes_are_forgotten_in_the_end() -> None:
    node = Node()
    node.run(5, heartbeat("b", calls={"CA1": 1}))
    node.run(REMEMBERED_S + 10)
    assert [seen.heartbeat.node for seen in node.directory.nodes()] == ["a"]
    assert node.directory.owner(ONE) is None


@pytest.mark.parametrize("epochs", [(1, 2), (2, 1)])
def test_heartbeats_in_any_order_make_the_same_owner(epochs: tuple[int, int]) -> None:
    node = Node()
    for epoch in epochs:
        node.directory.on_heartbeat(heartbeat("bc"[epoch - 1], calls={"CA1": epoch}), 1.0)
    owner = node.directory.owner(ONE)
    assert owner
    assert (owner.node, owner.epoch) == ("c", 2)


def test_a_call_that_is_over_has_no_owner() -> None:
    node = Node()
    node.run(1, heartbeat("b", calls={"CA1": 1}))
    node.run(1, heartbeat("b"))
    assert node.directory.owner(ONE) is None


def test_a_heartbeat_that_was_recorded_is_not_new() -> None:
    node, recorded = Node(), heartbeat("b", calls={"CA1": 1})
    assert [node.directory.is_new(recorded, ahead_s) for ahead_s in (-FRESH_S - 1, -1.0, 1.0)] == [False, True, True]
    node.run(HEARTBEAT_S, recorded.model_copy(update={"number": 5}))
    for number, jumped_s in ((4, 0.0), (5, 0.0), (6, -3_600.0)):
        again = recorded.model_copy(update={"number": number})
        assert node.directory.is_new(again, jumped_s) is (number > 5), "a clock may jump, a number does not"
    stolen = heartbeat("c", boot=recorded.boot).model_copy(update={"number": 6})
    assert not node.directory.is_new(stolen, 0.0), "a node speaks for itself alone"


def test_the_order_of_nodes_is_that_of_every_process() -> None:
    assert [rendezvous(sid(1), ["a", "b", "c"]), rendezvous(sid(1), ["c", "b", "a"])] == [rendezvous(sid(1), "abc")] * 2
