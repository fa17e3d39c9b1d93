import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.tunnel_state import TunnelState, TunnelStateMachine, TunnelStatus, TunnelTimeouts, backoff_s

URL, OTHER = "https://one.trycloudflare.com", "https://two.trycloudflare.com"
NOTHING, NAMED = TunnelStatus(None, connected=False), TunnelStatus(URL, connected=False)
LIVE, MOVED = TunnelStatus(URL, connected=True), TunnelStatus(OTHER, connected=True)
TIMEOUTS = TunnelTimeouts(connect_s=60, probe_s=300, disconnected_s=90, first_probe_s=5, next_probe_s=(3, 10))


def opened(now: float = 10.0) -> TunnelStateMachine:
    machine = TunnelStateMachine(now - 6, TIMEOUTS)
    machine.on_status(LIVE, now - 5)
    assert machine.on_status(LIVE, now) == URL
    machine.on_probe(True, now)
    return machine


@pytest.mark.parametrize("status", [NOTHING, NAMED, TunnelStatus(None, connected=True)])
def test_without_a_url_or_a_connection_nothing_is_probed(status: TunnelStatus) -> None:
    machine = TunnelStateMachine(0, TIMEOUTS)
    assert [machine.on_status(status, now) for now in (1, 30, 60)] == [None] * 3
    assert machine.state is TunnelState.STARTING


def test_the_first_probe_waits_until_the_name_may_be_known() -> None:
    machine = TunnelStateMachine(0, TIMEOUTS)
    assert [machine.on_status(LIVE, now) for now in (2, 6.9, 7)] == [None, None, URL]


def test_a_probe_that_fails_is_repeated_later_and_later() -> None:
    machine = TunnelStateMachine(0, TIMEOUTS)
    machine.on_status(LIVE, 0)
    probed = []
    for now in range(5, 40):
        if machine.on_status(LIVE, now):
            probed.append(now)
            machine.on_probe(False, now)
    assert probed == [5, 8, 18, 28, 38]


def test_a_probe_that_succeeds_opens_and_is_not_repeated() -> None:
    machine = opened()
    assert machine.state is TunnelState.OPEN
    assert [machine.on_status(LIVE, now) for now in (11, 1_000, 100_000)] == [None] * 3
    assert machine.overdue(100_000) is None


def test_a_connection_that_comes_back_is_probed_at_once_and_another_url_like_the_first() -> None:
    machine = opened(10)
    assert machine.on_status(NAMED, 20) is None
    assert machine.state is TunnelState.DISCONNECTED
    assert machine.on_status(LIVE, 22) == URL
    assert [machine.on_status(MOVED, now) for now in (30, 34, 35)] == [None, None, OTHER]


@pytest.mark.parametrize(
    ("machine", "status", "limit_s", "reason"),
    [
        (TunnelStateMachine(20, TIMEOUTS), NOTHING, 60, "no connection to Cloudflare for 60 s"),
        (TunnelStateMachine(20, TIMEOUTS), LIVE, 300, "no signed socket came back through it for 300 s"),
        (opened(10), NAMED, 90, "its connection to Cloudflare is lost for 90 s"),
    ],
)
def test_a_state_that_lasts_too_long_ends_in_a_restart(
    machine: TunnelStateMachine, status: TunnelStatus, limit_s: float, reason: str
) -> None:
    for now in (20, 20 + limit_s):
        machine.on_status(status, now)
        assert machine.overdue(now) is None
    assert machine.overdue(20.1 + limit_s) == reason


statuses = st.builds(TunnelStatus, st.sampled_from([None, URL, OTHER]), connected=st.booleans())


@given(st.lists(st.tuples(statuses, st.floats(0, 100), st.booleans()), max_size=60))
def test_only_a_live_url_is_probed_and_only_a_probe_opens(story: list[tuple[TunnelStatus, float, bool]]) -> None:
    machine, now, succeeded = TunnelStateMachine(0, TIMEOUTS), 0.0, False
    for status, later_s, succeeds in story:
        now += later_s
        if url := machine.on_status(status, now):
            assert status == TunnelStatus(url, connected=True)
            succeeded |= succeeds
            machine.on_probe(succeeds, now)
        assert succeeded or machine.state in (TunnelState.STARTING, TunnelState.PROBING)


def test_the_waits_between_starts_grow_to_a_minute() -> None:
    waits_s = [backoff_s(failures) for failures in range(10)]
    assert waits_s == sorted(waits_s)
    assert (waits_s[0], waits_s[-1]) == (1, 60)
