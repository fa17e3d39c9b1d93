import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.tunnel_state import (
    Probe,
    Restart,
    TunnelState,
    TunnelStateMachine,
    TunnelStatus,
    TunnelTimeouts,
    backoff_s,
)

URL, OTHER = "https://one.trycloudflare.com", "https://two.trycloudflare.com"
NOTHING, NAMED, LIVE = (
    TunnelStatus(None, connected=False),
    TunnelStatus(URL, connected=False),
    TunnelStatus(URL, connected=True),
)
TIMEOUTS = TunnelTimeouts(connect_s=60, probe_s=300, disconnected_s=90, first_probe_s=5, next_probe_s=(3, 10))


def opened(now: float = 10.0) -> TunnelStateMachine:
    machine = TunnelStateMachine(now - 6, TIMEOUTS)
    machine.on_status(LIVE, now - 5)
    assert machine.on_status(LIVE, now) == Probe(URL)
    machine.on_probe(True, now)
    return machine


@pytest.mark.parametrize("status", [NOTHING, NAMED, TunnelStatus(None, connected=True)])
def test_without_a_url_or_a_connection_nothing_is_proved(status: TunnelStatus) -> None:
    machine = TunnelStateMachine(0, TIMEOUTS)
    assert [machine.on_status(status, now) for now in (1, 30, 60)] == [None] * 3
    assert machine.state is TunnelState.STARTING


def test_the_first_proof_waits_until_the_name_may_be_known() -> None:
    machine = TunnelStateMachine(0, TIMEOUTS)
    assert machine.on_status(LIVE, 2) is None
    assert machine.on_status(LIVE, 6.9) is None
    assert machine.on_status(LIVE, 7) == Probe(URL)


def test_a_proof_that_fails_is_tried_again_later_and_later() -> None:
    machine = TunnelStateMachine(0, TIMEOUTS)
    machine.on_status(LIVE, 0)
    proofs = []
    for now in range(5, 40):
        if machine.on_status(LIVE, now) == Probe(URL):
            proofs.append(now)
            machine.on_probe(False, now)
    assert proofs == [5, 8, 18, 28, 38]


def test_a_proof_that_succeeds_opens_and_nothing_more_is_asked() -> None:
    machine = opened()
    assert machine.state is TunnelState.OPEN
    assert [machine.on_status(LIVE, now) for now in (11, 1_000, 100_000)] == [None] * 3


def test_a_connection_that_comes_back_is_proved_at_once_and_the_service_stays_open_meanwhile() -> None:
    machine = opened(10)
    assert machine.on_status(NAMED, 20) is None
    assert machine.state is TunnelState.DISCONNECTED
    assert machine.on_status(LIVE, 22) == Probe(URL)


def test_another_url_is_proved_like_the_first() -> None:
    machine = opened(10)
    assert machine.on_status(TunnelStatus(OTHER, connected=True), 20) is None
    assert machine.on_status(TunnelStatus(OTHER, connected=True), 25) == Probe(OTHER)


@pytest.mark.parametrize(
    ("status", "limit_s", "reason"),
    [
        (NOTHING, 60, "no connection to Cloudflare for 60 s"),
        (LIVE, 300, "no signed socket came back through it for 300 s"),
    ],
)
def test_a_tunnel_that_never_opens_is_started_again(status: TunnelStatus, limit_s: float, reason: str) -> None:
    machine = TunnelStateMachine(0, TIMEOUTS)
    machine.on_status(status, 0)
    assert not isinstance(machine.on_status(status, limit_s), Restart)
    assert machine.on_status(status, limit_s + 0.1) == Restart(reason)


def test_a_tunnel_whose_connection_does_not_come_back_is_started_again() -> None:
    machine = opened(10)
    machine.on_status(NAMED, 20)
    assert machine.on_status(NAMED, 110) is None
    assert machine.on_status(NAMED, 110.1) == Restart("its connection to Cloudflare is lost for 90 s")


statuses = st.builds(TunnelStatus, st.sampled_from([None, URL, OTHER]), connected=st.booleans())


@given(st.lists(st.tuples(statuses, st.floats(0, 100), st.booleans()), max_size=60))
def test_whatever_is_seen_only_a_live_url_is_proved_and_only_a_proof_opens(
    story: list[tuple[TunnelStatus, float, bool]],
) -> None:
    machine, now, succeeded = TunnelStateMachine(0, TIMEOUTS), 0.0, False
    for status, later_s, succeeds in story:
        now += later_s
        action = machine.on_status(status, now)
        if isinstance(action, Restart):
            return
        if isinstance(action, Probe):
            assert status == TunnelStatus(action.url, connected=True)
            succeeded |= succeeds
            machine.on_probe(succeeds, now)
        assert succeeded or machine.state in (TunnelState.STARTING, TunnelState.PROBING)


def test_the_waits_between_starts_grow_to_a_minute() -> None:
    waits_s = [backoff_s(failures) for failures in range(10)]
    assert waits_s == sorted(waits_s)
    assert (waits_s[0], waits_s[-1]) == (1, 60)
