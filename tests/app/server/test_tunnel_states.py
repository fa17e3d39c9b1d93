import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.tunnel_states import Look, Patience, Prove, Restart, State, TunnelCourse, Wait, back_off_s

URL, OTHER = "https://one.trycloudflare.com", "https://two.trycloudflare.com"
NOTHING, NAMED, LIVE = Look(None, connected=False), Look(URL, connected=False), Look(URL, connected=True)
PATIENCE = Patience(connect_s=60, prove_s=300, shaky_s=90, first_proof_s=5, next_proof_s=(3, 10))


def opened(now: float = 10.0) -> TunnelCourse:
    course = TunnelCourse(now - 6, PATIENCE)
    course.see(LIVE, now - 5)
    assert course.see(LIVE, now) == Prove(URL)
    course.proved(now)
    return course


@pytest.mark.parametrize("look", [NOTHING, NAMED, Look(None, connected=True)])
def test_without_a_url_or_a_connection_nothing_is_proved(look: Look) -> None:
    course = TunnelCourse(0, PATIENCE)
    assert [course.see(look, now) for now in (1, 30, 60)] == [Wait()] * 3
    assert course.state is State.STARTING


def test_the_first_proof_waits_until_the_name_may_be_known() -> None:
    course = TunnelCourse(0, PATIENCE)
    assert course.see(LIVE, 2) == Wait()
    assert course.see(LIVE, 6.9) == Wait()
    assert course.see(LIVE, 7) == Prove(URL)


def test_a_proof_that_fails_is_tried_again_later_and_later() -> None:
    course = TunnelCourse(0, PATIENCE)
    course.see(LIVE, 0)
    proofs = []
    for now in range(5, 40):
        if course.see(LIVE, now) == Prove(URL):
            proofs.append(now)
            course.disproved(now)
    assert proofs == [5, 8, 18, 28, 38]


def test_a_proof_that_succeeds_opens_and_nothing_more_is_asked() -> None:
    course = opened()
    assert course.state is State.OPEN
    assert [course.see(LIVE, now) for now in (11, 1_000, 100_000)] == [Wait()] * 3


def test_a_connection_that_comes_back_is_proved_at_once_and_the_service_stays_open_meanwhile() -> None:
    course = opened(10)
    assert course.see(NAMED, 20) == Wait()
    assert course.state is State.SHAKY
    assert course.see(LIVE, 22) == Prove(URL)


def test_another_url_is_proved_like_the_first() -> None:
    course = opened(10)
    assert course.see(Look(OTHER, connected=True), 20) == Wait()
    assert course.see(Look(OTHER, connected=True), 25) == Prove(OTHER)


@pytest.mark.parametrize(
    ("look", "limit_s", "reason"),
    [
        (NOTHING, 60, "no connection to Cloudflare for 60 s"),
        (LIVE, 300, "no signed socket came back through it for 300 s"),
    ],
)
def test_a_tunnel_that_never_opens_is_started_again(look: Look, limit_s: float, reason: str) -> None:
    course = TunnelCourse(0, PATIENCE)
    course.see(look, 0)
    assert not isinstance(course.see(look, limit_s), Restart)
    assert course.see(look, limit_s + 0.1) == Restart(reason)


def test_a_tunnel_whose_connection_does_not_come_back_is_started_again() -> None:
    course = opened(10)
    course.see(NAMED, 20)
    assert course.see(NAMED, 110) == Wait()
    assert course.see(NAMED, 110.1) == Restart("its connection to Cloudflare is lost for 90 s")


looks = st.builds(Look, st.sampled_from([None, URL, OTHER]), connected=st.booleans())


@given(st.lists(st.tuples(looks, st.floats(0, 100), st.booleans()), max_size=60))
def test_whatever_is_seen_only_a_live_url_is_proved_and_only_a_proof_opens(
    story: list[tuple[Look, float, bool]],
) -> None:
    course, now, proved = TunnelCourse(0, PATIENCE), 0.0, False
    for look, later_s, succeeds in story:
        now += later_s
        step = course.see(look, now)
        if isinstance(step, Restart):
            return
        if isinstance(step, Prove):
            assert look == Look(step.url, connected=True)
            proved |= succeeds
            (course.proved if succeeds else course.disproved)(now)
        assert proved or course.state in (State.STARTING, State.PROVING)


def test_the_waits_between_starts_grow_to_a_minute() -> None:
    waits_s = [back_off_s(failures) for failures in range(10)]
    assert waits_s == sorted(waits_s)
    assert (waits_s[0], waits_s[-1]) == (1, 60)
