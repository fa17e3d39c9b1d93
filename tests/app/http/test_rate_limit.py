import logging

import pytest
from starlette.requests import HTTPConnection

from app.http.rate_limit import MINUTE_S, RateLimiter, RefusalReason

EVE, ANN = "203.0.113.5", "203.0.113.6"


def connection(address: str, path: str = "/twilio/voice") -> HTTPConnection:
    return HTTPConnection({"type": "http", "path": path, "client": (address, 1), "headers": []})


def test_an_address_is_limited_for_a_minute_and_another_is_not() -> None:
    limiter = RateLimiter(3)
    for _ in range(3):
        assert not limiter.is_limited(EVE, 0.0)
        limiter.count(EVE, 0.0)
    assert limiter.is_limited(EVE, MINUTE_S - 0.1)
    assert not limiter.is_limited(ANN, 1.0)
    assert not limiter.is_limited(EVE, MINUTE_S)
    limiter.count(EVE, MINUTE_S)
    assert not limiter.is_limited(EVE, MINUTE_S)


@pytest.mark.parametrize(
    ("counted", "same", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"),
        (f"::ffff:{EVE}", EVE, f"::ffff:{ANN}"),
        ("x" * 60_000, f"{EVE}, {ANN}", EVE),
    ],
    ids=["networks of 64 bits", "IPv4 in IPv6", "no address"],
)
def test_several_addresses_of_one_subscriber_count_as_one(counted: str, same: str, other: str) -> None:
    limiter = RateLimiter(1)
    limiter.count(counted, 0.0)
    assert limiter.is_limited(same, 0.0)
    assert not limiter.is_limited(other, 0.0)


ODD = ["::1", "\x1b[2J", "x" * 60_000, "fe80::1%" + "x" * 60_000, f"::ffff:{EVE}%" + "x" * 60_000, f"{EVE}, {ANN}", ""]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_what_a_proxy_says_in_place_of_an_address_is_not_logged(odd: str, caplog: pytest.LogCaptureFixture) -> None:
    """`X-Forwarded-For` comes from this machine's proxies, who may pass on what a client has written."""
    with caplog.at_level(logging.WARNING):
        RateLimiter(per_minute=1).refuse(connection(odd), RefusalReason.UNSIGNED)
    assert all(record.getMessage().isprintable() and len(record.getMessage()) < 200 for record in caplog.records)


def test_only_the_last_addresses_are_remembered() -> None:
    limiter, addresses = RateLimiter(1, addresses_kept=4), [f"203.0.113.{number}" for number in range(6)]
    for address in addresses:
        limiter.count(address, 0.0)
    assert [limiter.is_limited(address, 0.0) for address in addresses] == [False] * 2 + [True] * 4


def test_beyond_the_limit_that_is_said_once_and_then_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    limiter = RateLimiter(per_minute=2)
    with caplog.at_level(logging.WARNING):
        answers = [limiter.refuse(connection(EVE), RefusalReason.UNSIGNED) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [403, 403, 429, 429, 429]
    assert [record.getMessage() for record in caplog.records] == [
        *[f"/twilio/voice refused: {RefusalReason.UNSIGNED}"] * 2,
        f"{EVE} is refused without a reason for a minute",
    ]
    assert answers[-1].headers == {"Retry-After": "60"}
    assert limiter.refuse(connection(ANN), RefusalReason.UNSIGNED).status_code == 403


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/twilio/media/the-secret-token", "/twilio/media/…"),
        ("/twilio/voice\nand a line of mine", "/twilio/voice\\nand a line of mine"),
        ("/x" * 500, "/x" * 50),
    ],
)
def test_a_logged_path_holds_no_secret_and_no_line_of_its_own(
    caplog: pytest.LogCaptureFixture, path: str, shown: str
) -> None:
    with caplog.at_level(logging.WARNING):
        RateLimiter(9).refuse(connection(EVE, path), RefusalReason.UNSIGNED)
    assert caplog.records[0].getMessage() == f"{shown} refused: {RefusalReason.UNSIGNED}"
