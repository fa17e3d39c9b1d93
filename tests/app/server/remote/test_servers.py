"""Which server a call gets, in virtual time."""

from app.server.remote.servers import BACK_OFF_S, Servers
from app.server_urls import parse_servers


def up(urls: str) -> Servers:
    servers = Servers(parse_servers(urls))
    for server in servers.begin_trials(0.0):
        server.answer()
    return servers


def names(servers: Servers, calls: int) -> list[str]:
    got = [servers.acquire() for _ in range(calls)]
    return [server.url.shown.removesuffix("/api/chat").removeprefix("ws://") if server else "" for server in got]


def test_the_least_busy_first_and_never_more_than_allowed() -> None:
    servers = up("ws://a?sessions=2,ws://b,ws://c?sessions=4")
    assert servers.slots == 7
    assert names(servers, 8) == ["a", "b", "c", "c", "a", "c", "c", ""]
    assert servers.ready, "it is only full"


def test_no_server_is_used_before_it_has_answered() -> None:
    servers = Servers(parse_servers("ws://a,ws://b"))
    assert not servers.ready
    assert servers.acquire() is None
    assert [server.url.shown for server in servers.begin_trials(0.0)] == ["ws://a/api/chat", "ws://b/api/chat"]
    assert servers.begin_trials(0.0) == [], "each trial once"


def test_a_start_waits_for_each_server_to_be_tried_and_for_one_that_answers() -> None:
    servers = Servers(parse_servers("ws://a,ws://b"))
    servers.all[0].fail("not reached", 0.0)
    assert not servers.settled
    servers.all[1].fail("not reached", 0.0)
    assert not servers.settled
    servers.all[1].answer()
    assert servers.settled


def test_a_server_that_fails_is_tried_again_ever_later() -> None:
    servers, now = Servers(parse_servers("ws://a")), 0.0
    for back_off_s in (*BACK_OFF_S, BACK_OFF_S[-1]):
        (server,) = servers.begin_trials(now)
        server.fail("not reached", now)
        assert servers.get_timer() == now + back_off_s
        now += back_off_s
    assert "not reached" in servers.reasons


def test_only_a_session_with_sound_resets_the_intervals() -> None:
    servers = up("ws://a")
    (server,) = servers.all
    assert server.fail("not ready", 0.0) == BACK_OFF_S[0]
    server.answer()
    assert server.fail("not ready", 1.0) == BACK_OFF_S[1]
    server.answer()
    server.speak()
    assert server.fail("the connection broke", 2.0) == BACK_OFF_S[0]
    assert server.failures == 3


def test_a_server_that_loses_its_sessions_together_has_failed_once() -> None:
    servers = up("ws://a?sessions=8")
    (server,) = servers.all
    began = server.answers
    assert server.is_new_loss(began)
    server.fail("the connection broke", 1.0)
    assert not server.is_new_loss(began), "it is set aside already"
    assert servers.begin_trials(1.0 + BACK_OFF_S[0]) == [server]
    assert not server.is_new_loss(began), "and is being tried"
    server.answer()
    assert not server.is_new_loss(began), "and answers again: a session that was silent since says nothing"
    assert server.is_new_loss(server.answers)


def test_while_a_server_is_set_aside_the_others_are_not_overbooked() -> None:
    servers = up("ws://a,ws://b")
    servers.all[0].fail("not reached", 0.0)
    assert servers.ready
    assert names(servers, 2) == ["b", ""]
    assert not servers.ready
