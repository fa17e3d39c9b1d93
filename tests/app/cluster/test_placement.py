"""Ask all, take the freest; the last-known list and its tokens; those who wait."""

import pytest

from app.calls.admission import VoiceRequest
from app.cluster.directory import HEARTBEAT_S, Directory
from app.cluster.fallback import GOOD_FOR_S, FallbackTokens
from app.cluster.messages import Offer, Wait
from app.cluster.placement import Asked, last_known
from app.cluster.seal import Seal
from app.cluster.waiting import ASKS_WITHIN_S, WaitingCallers, leads
from tests.app.cluster.nodes import heartbeat, sid

CALL = sid(1)
SEAL = Seal(["the-token"])


def asked(*offers: Offer) -> Asked:
    asking = Asked(CALL, {})
    for offer in offers:
        asking.add(offer)
    return asking


def test_the_freest_is_taken_first_and_the_full_and_the_draining_never() -> None:
    offers = [Offer(node="a", free=1), Offer(node="b", free=3), Offer(node="c", free=9, draining=True)]
    assert asked(*offers, Offer(node="d", free=0)).candidates() == ["b", "a"]


def test_who_has_the_call_comes_first_even_without_a_free_slot() -> None:
    assert asked(Offer(node="a", free=0, holds=4), Offer(node="b", free=3)).candidates() == ["a", "b"]
    assert asked(Offer(node="a", free=1, holds=4), Offer(node="b", free=0, holds=5)).candidates() == ["b", "a"]
    assert asked(Offer(node="a", free=1, holds=4, draining=True), Offer(node="b", free=3)).candidates() == ["b"]


def test_asking_is_over_when_all_live_nodes_have_answered() -> None:
    asking = Asked(CALL, {"a": heartbeat("a"), "b": heartbeat("b")})
    assert [asking.add(Offer(node=node, free=1)) for node in ("a", "x", "b")] == [False, False, True]


def test_a_node_that_has_not_answered_in_time_is_asked_last_unless_it_owns_the_call() -> None:
    live = {name: heartbeat(name, free=free) for name, free in (("a", 1), ("b", 9), ("c", 0), ("d", 0))}
    asking = Asked(CALL, live, owner="d")
    asking.add(Offer(node="a", free=1))
    assert asking.candidates() == ["d", "a", "b"]


def test_equally_free_nodes_get_equal_shares_of_the_calls() -> None:
    first = []
    for number in range(300):
        asking = Asked(sid(number), {})
        for node in "abc":
            asking.add(Offer(node=node, free=8))
        first.append(asking.candidates()[0])
    assert min(first.count(node) for node in "abc") > 70


def test_without_nats_the_last_known_list_is_used_up_slot_by_slot() -> None:
    directory, given = Directory("a", "a-1"), dict[str, int]()
    for one in (
        heartbeat("a", free=9),
        heartbeat("b", free=2),
        heartbeat("c", free=1),
        heartbeat("d", free=5, draining=True),
    ):
        directory.on_heartbeat(one, 0.0)
    taken = []
    while best := last_known(directory, given):
        given[best.heartbeat.boot] = given.get(best.heartbeat.boot, 0) + 1
        taken.append(best.heartbeat.node)
    assert sorted(taken) == ["b", "b", "c"]
    assert taken[0] == "b"


def test_without_nats_no_caller_is_sent_to_a_node_that_was_silent_before() -> None:
    directory = Directory("a", "a-1")
    directory.on_heartbeat(heartbeat("dead", free=8), 0.0)
    for number in range(20):
        directory.on_heartbeat(heartbeat("a", free=0), number * HEARTBEAT_S)
        directory.on_heartbeat(heartbeat("b", free=4), number * HEARTBEAT_S)
    best = last_known(directory, {})
    assert best
    assert best.heartbeat.node == "b"


ASKED = VoiceRequest(
    caller="sip:jürgen@example.com", called="+15550100000", direction="inbound", persona="ada", record=True
)


def fresh(account: str = "AC1", secret: str = "the-token") -> FallbackTokens:
    return FallbackTokens(Seal([secret]), account)


def test_a_fallback_token_is_good_for_one_call_at_one_node_once_until_it_expires() -> None:
    tokens = FallbackTokens(SEAL, "AC1")
    token = tokens.make("b", CALL, ASKED, 1000.0)
    assert fresh().redeem("b", token, 1000.0 + GOOD_FOR_S - 1) == (CALL, ASKED)
    assert fresh().redeem("b", token, 1000.0 + GOOD_FOR_S) is None
    assert fresh().redeem("b", token, 1000.0 - 2 * GOOD_FOR_S) is None
    assert fresh().redeem("c", token, 1000.0) is None
    assert fresh("AC2").redeem("b", token, 1000.0) is None
    assert fresh(secret="another").redeem("b", token, 1000.0) is None
    assert fresh().redeem("b", token.replace(CALL, sid(2)), 1000.0) is None
    once = fresh()
    assert [once.redeem("b", token, 1000.0), once.redeem("b", token, 1000.0)] == [(CALL, ASKED), None]


@pytest.mark.parametrize(
    "token", ["", "a.b.c", f"{CALL}.99999999999.{'0' * 32}", f"{CALL}.9.e30=.{'0' * 32}", "é" * 50, f"{CALL}.1\n.x"]
)
def test_what_is_no_fallback_token_admits_nobody(token: str) -> None:
    assert FallbackTokens(SEAL, "AC1").redeem("b", token, 0.0) is None


def wait(number: int, since_s: float) -> Wait:
    return Wait(call=sid(number), form={}, since_s=since_s)


def test_the_line_is_in_the_order_in_which_callers_came_to_any_node() -> None:
    callers = WaitingCallers()
    for one in (wait(3, 30.0), wait(1, 10.0), wait(2, 20.0), wait(1, 99.0)):
        callers.add(one, 0.0)
    assert [one.call for one in callers.in_order(0.0)] == [sid(1), sid(2), sid(3)]


def test_who_asks_for_no_more_pages_has_left_the_line() -> None:
    callers = WaitingCallers()
    callers.add(wait(1, 10.0), 0.0)
    callers.add(wait(2, 20.0), 1.0)
    assert [one.call for one in callers.in_order(ASKS_WITHIN_S + 0.5)] == [sid(2)]


def test_one_node_serves_the_line() -> None:
    names = ["a", "b", "c"]
    assert [leads(name, names) for name in names].count(True) == 1
